import Glibc
import Kernel
import Testing

@testable import Lab

/// That a host keeps the addresses of what it runs, and keeps nothing of what it no longer runs.
@Suite(.serialized)
struct AddressWatchTests {
    private static let present = " \(RollbackLab.address)/32 "

    /// The hardware address of a member's eth0.
    private func hardware(_ host: LabHost) throws -> String {
        // Not from /sys: a client has the machine's files.
        let link = try host.run("ip", "-o", "link", "show", "eth0").output.split(separator: " ").map(String.init)
        return try #require(link.firstIndex(of: "link/ether").map { link[$0 + 1] })
    }

    private func has(_ host: LabHost) throws -> Bool {
        try host.run("ip", "-o", "address").output.contains(Self.present)
    }

    /// What another host sends that holds the address: an ARP request with it as sender, to everybody.
    private func claim(by host: LabHost) throws {
        try host.run(
            "python3", "-c",
            """
            import socket
            s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            s.bind(('eth0', 0x0806))
            own, vip = s.getsockname()[4], socket.inet_aton('\(RollbackLab.address)')
            s.send(b'\\xff' * 6 + own + b'\\x08\\x06\\0\\1\\x08\\0\\6\\4\\0\\1' + own + vip + b'\\0' * 6 + vip)
            """)
    }

    /// How many conflicts with `hardware` the daemon of a host has logged, found by the structured fields alone.
    private func conflicts(on host: LabHost, with hardware: String) throws -> Int {
        try host.run(
            "journalctl", "--no-pager", "-o", "cat", "_SYSTEMD_UNIT=mobilityd.service",
            "MOBILITY_UNIT=\(RollbackLab.unit)", "MOBILITY_ADDRESS=\(RollbackLab.address)",
            "MOBILITY_HARDWARE=\(hardware)", allowFailure: true
        ).output.split(separator: "\n").count { $0.contains("claims") }
    }

    private func removeAddress(on host: LabHost) throws {
        try host.run("ip", "address", "del", "\(RollbackLab.address)/32", "dev", "eth0")
    }

    @Test func `Another host's claim is told and answered, and a removed address comes back`() throws {
        if skippedWithoutRoot() { return }
        let lab = try RollbackLab("watch")
        let (a, b, client) = try (lab["a"], lab["b"], lab["c"])
        try lab.start(on: "a")
        let talk = try lab.connect()
        let monitor = try a.spawn("busctl", "monitor", "org.mobilityd1")
        defer { monitor.kill() }
        try waitUntil("busctl monitor") { monitor.errorOutput.contains("Monitoring") }

        let (mine, foreign) = try (hardware(a), hardware(b))
        let neighbours = try client.spawn("ip", "monitor", "neigh")
        defer { neighbours.kill() }
        func turns(to hardware: String) -> Int {
            neighbours.output.split(separator: "\n").count {
                $0.contains(RollbackLab.address + " ") && $0.contains(hardware)
            }
        }
        // The monitor says nothing when it is ready: an address that nobody has is resolved until it is heard of.
        try waitUntil("ip monitor") {
            try client.run("ip", "neigh", "replace", "10.10.10.250", "lladdr", foreign, "dev", "eth0")
            try client.run("ip", "neigh", "del", "10.10.10.250", "dev", "eth0")
            return neighbours.output.contains("10.10.10.250")
        }
        try claim(by: b)
        try waitUntil("the conflict in a's journal") { try conflicts(on: a, with: foreign) == 1 }
        try waitUntil("the signal") { monitor.output.contains("Member=AddressConflict") }
        for text in [RollbackLab.unit, RollbackLab.address, foreign] {
            #expect(monitor.output.contains("\"\(text)\""), "\(monitor.output)")
        }
        // The client believed b, then a again.
        try waitUntil("the client's return to a") { turns(to: foreign) > 0 && turns(to: mine) > 0 }
        #expect(try client.run("ip", "neigh", "show", RollbackLab.address).output.contains(mine))
        try talk.awaitProgress()

        try removeAddress(on: a)
        try waitUntil("the address") { try has(a) }
        try waitUntil("the word about it") { try lab.log(on: "a").contains("somebody removed \(RollbackLab.address)") }
        try talk.awaitProgress()
        try talk.finish()
    }

    @Test func `The watch goes with the service and does not outlive it`() throws {
        if skippedWithoutRoot() { return }
        let lab = try RollbackLab("watchmove")
        let (a, b) = try (lab["a"], lab["b"])
        let pid = try lab.start(on: "a")
        let talk = try lab.connect()
        let (source, destination) = try (hardware(a), hardware(b))
        try lab.expectMove(from: "a", to: "b", pid: pid)
        // The source heard the destination's announcements and took none for an attack; nor does the destination.
        let heard = try (conflicts(on: a, with: destination), conflicts(on: b, with: source))
        #expect(heard == (0, 0))
        try #require(try !has(a))
        // Until then it says nothing about the address.
        try waitUntil("the end of the forwarding") { try lab.log(on: "a").contains("packets held, ") }

        // The destination watches, and goes on when its daemon was away: also over what happened meanwhile.
        try removeAddress(on: b)
        try waitUntil("the address on b") { try has(b) }
        try b.run("systemctl", "restart", "mobilityd")
        try removeAddress(on: b)
        try waitUntil("the address after the restart") { try has(b) }
        try b.run("systemctl", "stop", "mobilityd")
        try removeAddress(on: b)
        try b.run("systemctl", "start", "mobilityd")
        try waitUntil("the address after the stop") { try has(b) }
        try talk.awaitProgress()
        try claim(by: a)
        try waitUntil("the conflict in b's journal") { try conflicts(on: b, with: source) == 1 }
        try talk.awaitProgress()
        try talk.finish()

        // Released, the address is nobody's: b neither brings it back nor answers a, who claims it next.
        try b.run("systemctl", "stop", RollbackLab.unit)
        #expect(try !has(b))
        try lab.start(on: "a")
        try lab.connect().finish()
        #expect(try !has(b))
        #expect(try conflicts(on: b, with: source) == 1 && conflicts(on: a, with: destination) == 0)

        // The destination cannot record the commit: this host has given the addresses up already, and takes them back.
        let moves = "/var/lib/mobilityd/ownership/moves"
        try b.run("sh", "-c", "mv \(moves) \(moves).away && touch \(moves)")
        let refused = try lab.migrate(from: "a", to: "b")
        #expect(!refused.succeeded && refused.errorOutput.contains("recording the commit"), "\(refused.errorOutput)")
        try b.run("sh", "-c", "rm \(moves) && mv \(moves).away \(moves)")
        try lab.connect().finish()
        try removeAddress(on: a)
        try waitUntil("the address on a") { try has(a) }
        try claim(by: b)
        try waitUntil("the conflict in a's journal") { try conflicts(on: a, with: destination) == 1 }
    }

    @Test func `A bind to the wildcard is one to the address, on either host, unless the unit says no`() throws {
        if skippedWithoutRoot() { return }
        let lab = try RollbackLab("wide")
        try lab.compile("\(Product.repository)/Tests/Programs/wide.c")
        for host in ["a", "b"] {
            try lab.install(program: "wide", on: host)
            for (name, address, more) in [
                ("wide", "10.10.10.61", ""), ("free", "10.10.10.62", "RewriteWildcardBinds=no\n"),
            ] {
                try lab.install(
                    unit: "\(name).service", on: host,
                    "[Service]\nExecStart=/usr/local/bin/wide \(name == "wide" ? 7021 : 7022)\n"
                        + "[X-Mobility]\nVirtualAddress=\(address)/24\n\(more)")
            }
        }
        func answer(_ address: String, _ port: Int) throws -> String {
            let ask = "import socket; print(socket.create_connection(('\(address)', \(port)), 5).recv(64).decode())"
            return try lab["c"].run("python3", "-c", ask, allowFailure: true).trimmed
        }
        let pids = try ["wide", "free"].map { try lab.start("\($0).service", on: "a") }
        for host in ["a", "b"] {
            let own = try lab[host].address
            try waitUntil("answers on \(host)") { try answer("10.10.10.61", 7021) == "10.10.10.61" }
            #expect(try answer("10.10.10.62", 7022) == "0.0.0.0")
            #expect(try answer(own, 7021) == "", "the listener is on the virtual address alone")
            #expect(try answer(own, 7022) == "0.0.0.0")
            guard host == "a" else { break }
            try lab.expectMove("wide.service", from: "a", to: "b", pid: pids[0])
            try lab.expectMove("free.service", from: "a", to: "b", pid: pids[1])
        }
    }
}
