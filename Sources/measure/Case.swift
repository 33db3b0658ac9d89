import Foundation
import Lab

/// A service and its clients, to be moved again and again while the clients' own kernel counts.
struct Case: Sendable {
    enum Family: Int, Sendable {
        case ipv4 = 4, ipv6 = 6
    }
    /// What runs on the client.
    enum Load: Sendable {
        /// labload and its arguments.
        case requests([String])
        /// A program of Tests/Programs and its arguments.
        case program(String, [String])
    }

    var name: String
    let family: Family
    let unit: String
    let address: String
    let load: Load
    /// What is to be said of it beside its figures.
    let remark: String
    /// Brings the service into being on both hosts, not yet started.
    let install: @Sendable (Lab) throws -> Void
    /// Another service of the first host with load of its own, which stays; it is what is measured then.
    var bystander: String?
    /// The client's cable is long and loses frames; the figures are what moves add to those of as long a time without.
    var isBadCable = false
    /// Lets a load end that waits for the service.
    var ending: (@Sendable (Lab) throws -> Void)?
}

extension Case {
    static let all: [Case] =
        nginx(.ipv4) + nginx(.ipv6) + bulk(.ipv4) + bulk(.ipv6) + waiting(.ipv4) + waiting(.ipv6) + [
            datagrams, neighbour,
        ]
        + (nginx(.ipv4) + bulk(.ipv4)).map(\.overBadCable)

    private var overBadCable: Case {
        var copy = self
        copy.name += ", 1 % loss, 20 ms"
        copy.isBadCable = true
        return copy
    }

    private static let addresses: [Family: String] = [.ipv4: "10.10.10.161", .ipv6: "fd10:10:10::161"]
    private static func address(_ family: Family) -> String { addresses[family] ?? "" }
    private static func prefix(_ family: Family) -> Int { family == .ipv4 ? 24 : 64 }

    private static func annotate(_ lab: Lab, _ unit: String, _ address: String, _ family: Family) throws {
        for host in try [lab["a"], lab["b"]] {
            try host.write(
                "/etc/systemd/system/\(unit).d/mobility.conf",
                "[X-Mobility]\nVirtualAddress=\(address)/\(prefix(family))\n")
            try host.run("systemctl", "daemon-reload")
            try host.run("systemctl", "reload", "mobilityd")
        }
    }

    private static func nginx(_ family: Family) -> [Case] {
        let address = address(family)
        return [
            Case(
                name: "nginx, 1,000 connections", family: family, unit: "nginx.service", address: address,
                load: .requests([
                    "keepalive", "--host", address, "--path", "/index.nginx-debian.html", "--connections", "1000",
                    "--interval-ms", "500",
                ]),
                remark:
                    "of Debian's settings `worker_connections` is 1024, not 768; the descriptor limit is as it was",
                install: { lab in
                    for host in try [lab["a"], lab["b"]] {
                        try host.run(
                            "sed", "-i", "s/worker_connections 768/worker_connections 1024/", "/etc/nginx/nginx.conf")
                    }
                    try annotate(lab, "nginx.service", address, family)
                })
        ]
    }

    private static func bulk(_ family: Family) -> [Case] {
        let (unit, address) = ("bulk.service", address(family))
        return ["down", "up"].map { way in
            Case(
                name: "bulk \(way)load", family: family, unit: unit, address: address,
                load: .program("bulk", [way, address, "7000"]), remark: "every byte is compared",
                install: { lab in
                    let program = try lab.compile("bulk")
                    try lab.installService(unit, "[Service]\nExecStart=\(program) serve \(address) 7000\n")
                    try annotate(lab, unit, address, family)
                })
        }
    }

    /// Clients that are connected, and have said what they want, to a service that accepts nobody until the end.
    private static func waiting(_ family: Family) -> [Case] {
        let (unit, address) = ("hoard.service", address(family))
        return [
            Case(
                name: "200 connections that wait to be accepted", family: family, unit: unit, address: address,
                load: .program("hoard", ["load", address, "7000", "200"]),
                remark:
                    "accepted after the last move, silent until then; *failed* counts those not answered in their turn",
                install: { lab in
                    let program = try lab.compile("hoard")
                    try lab.installService(unit, "[Service]\nExecStart=\(program) serve \(address) 7000\n")
                    try annotate(lab, unit, address, family)
                },
                ending: { lab in
                    for host in try [lab["a"], lab["b"]] {
                        try host.run("systemctl", "kill", "-s", "USR1", unit, allowFailure: true)
                    }
                })
        ]
    }

    private static let datagrams = Case(
        name: "UDP echo, 5,000/s", family: .ipv4, unit: "udp-echo.service", address: address(.ipv4),
        load: .program("udp-echo", ["load", address(.ipv4), "7000", "5000"]),
        remark: "*failed* counts datagrams lost, *resets* those that came twice",
        install: { lab in
            let program = try lab.compile("udp-echo")
            try lab.installService(
                "udp-echo.service", "[Service]\nExecStart=\(program) serve \(address(.ipv4)) 7000\n")
            try annotate(lab, "udp-echo.service", address(.ipv4), .ipv4)
        })

    /// The load is on nginx, which stays on `a` while a loaded bulk service beside it comes and goes.
    private static let neighbour = Case(
        name: "nginx beside a service that moves", family: .ipv4, unit: "bulk.service", address: "10.10.10.163",
        load: .requests([
            "keepalive", "--host", "10.10.10.162", "--path", "/index.nginx-debian.html", "--connections", "100",
            "--interval-ms", "50",
        ]),
        remark: "the figures are those of the service that stays",
        install: { lab in
            let program = try lab.compile("bulk")
            try lab.installService("bulk.service", "[Service]\nExecStart=\(program) serve 10.10.10.163 7000\n")
            try annotate(lab, "bulk.service", "10.10.10.163", .ipv4)
            try annotate(lab, "nginx.service", "10.10.10.162", .ipv4)
        }, bystander: "nginx.service")
}
