import Glibc
import Lab
import Testing

/// Services of one host that talk to each other: local before a move, remote after it, local again.
@Suite(.serialized, .survivalLab("near"))
struct SurvivalNeighbourTests {
    private static let server = "near-server.service", client = "near-client.service"
    private static let serverAddress = "10.10.10.91", clientAddress = "10.10.10.92"

    private func install(_ lab: Lab) throws {
        let (server, client) = try (lab.compile("counter"), lab.compile("counter-client"))
        for (unit, line, address) in [
            (Self.server, "\(server) \(Self.serverAddress) 7000", Self.serverAddress),
            (Self.client, "\(client) \(Self.serverAddress) 7000", Self.clientAddress),
        ] {
            try lab.installService(
                unit, "[Service]\nExecStart=\(line)\n[X-Mobility]\nVirtualAddress=\(address)/24\n")
        }
    }

    /// What the client has counted, by its own word in the journal of the host where it is.
    private func count(_ host: LabHost) throws -> Int {
        let lines = try host.journal(Self.client).split(separator: "\n").filter { $0.hasSuffix("}") }
        return lines.last?.split(separator: ":").dropFirst().first.flatMap { Int($0.prefix(while: \.isNumber)) } ?? 0
    }

    private func awaitMore(_ host: LabHost) throws {
        let seen = try count(host)
        try waitUntil("more numbers of \(Self.client) on \(host.name)") { try count(host) > seen + 100 }
    }

    @Test func `A connection between two services outlives every move of either`() throws {
        guard let lab = SurvivalLab.lab() else { return }
        try install(lab)
        let a = try lab["a"]
        try a.start(Self.server)
        try a.start(Self.client)
        let originals = try [Self.server, Self.client].map { try MasterProcess(of: $0, on: a) }
        try awaitMore(a)
        // Resets are no judge here: the ends that a move leaves behind count as such.
        let hosts = try [lab["a"], lab["b"]]
        func timeouts() throws -> [Int?] { try hosts.map { try $0.counters()["TcpExt.TCPTimeouts"] } }
        let before = try timeouts()
        var place = [Self.server: "a", Self.client: "a"]
        for unit in [Self.server, Self.client, Self.server, Self.client, Self.client, Self.server] {
            let (source, destination) = place[unit] == "a" ? ("a", "b") : ("b", "a")
            try lab.migrate(unit, from: source, to: destination)
            place[unit] = destination
            try awaitMore(lab[place[Self.client] ?? "a"])
            for (unit, original) in zip([Self.server, Self.client], originals) {
                try expectArrived(unit, original, lab[place[unit] ?? "a"])
            }
        }
        #expect(try timeouts() == before)
        for unit in [Self.client, Self.server] { try lab[place[unit] ?? "a"].run("systemctl", "stop", unit) }
    }

    /// Ordinary processes of the hosts between which it moves, which bind to nothing before they connect.
    @Test(arguments: ["10.10.10.93", "fd10:10:10::93"])
    func `Clients on either host keep their connections`(_ address: String) throws {
        guard let lab = SurvivalLab.lab() else { return }
        let (counter, echo) = ("near-counter.service", "near-echo.service")
        let programs = try (lab.compile("counter"), lab.compile("udp-echo"))
        let client = try lab.compile("counter-client")
        let echoAddress = address.replacing("93", with: "94")
        try lab.installService(counter, "[Service]\nExecStart=\(programs.0) \(address) 7000\n")
        try lab.installService(echo, "[Service]\nExecStart=\(programs.1) serve \(echoAddress) 7000\n")
        for (unit, address) in [(counter, address), (echo, echoAddress)] {
            try lab.annotate(unit: unit, address: address)
            try lab["a"].start(unit)
        }
        defer {
            for host in ["a", "b"] {
                _ = try? lab[host].run("systemctl", "stop", counter, echo, allowFailure: true)
            }
        }
        let talks = try ["a", "b"].map {
            try lab[$0].spawn(client, address, "7000", "20", "10")
        }
        let loads = try ["a", "b"].map {
            try lab[$0].spawn(programs.1, "load", echoAddress, "7000", "200")
        }
        defer { (talks + loads).forEach { $0.kill() } }
        func awaitProgress() throws {
            let before = talks.map(\.output.count)
            try waitUntil("numbers at both clients") {
                zip(talks, before).allSatisfy { $0.isRunning && $0.output.count > $1 + 100 }
            }
        }
        try awaitProgress()
        for (source, destination) in [("a", "b"), ("b", "a")] {
            for unit in [counter, echo] { try lab.migrate(unit, from: source, to: destination) }
            try awaitProgress()
        }
        for talk in talks {
            try talk.signal(SIGTERM)
            #expect(try talk.wait(timeout: .seconds(10)) == .exited(0), "\(talk.errorOutput)")
        }
        for load in loads {
            let end = try load.loadReport("end")
            #expect(end["failed"] == 0 && end["resets"] == 0, "\(load.output)")
        }
    }
}
