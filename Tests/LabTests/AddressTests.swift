import Glibc
import Kernel
import Testing

@testable import Lab

/// Who may have a virtual address, when, and what is said where it cannot be had.
@Suite(.serialized)
struct AddressTests {
    private static let sleeper = "[Service]\nExecStart=/bin/sleep 600\n"

    /// What a failed start leaves for a person to read: the unit's journal, the daemon's, and `mobilityctl status`.
    private func explanation(_ unit: String, _ lab: RollbackLab) throws -> (
        unit: String, daemon: String, status: String
    ) {
        let status = try lab["a"].run("mobilityctl", "status", unit, allowFailure: true)
        return (
            try lab.log(of: unit, on: "a"), try lab.log(on: "a", lines: 60), status.output + status.errorOutput
        )
    }

    @Test func `Annotations that cannot hold keep their unit from starting and disturb no other`() throws {
        if skippedWithoutRoot() { return }
        let lab = try RollbackLab("wrong")
        let a = try lab["a"]

        // A key that does not exist and a value that is no address: file, line and key, and a unit that refuses.
        try lab.install(
            unit: "bad.service", on: "a", Self.sleeper + "[X-Mobility]\nVirtualAddress=10.10.10.300/24\nColour=red\n")
        #expect(try !a.run("systemctl", "start", "bad.service", allowFailure: true).succeeded)
        #expect(try lab.property("ActiveState", of: "bad.service", on: "a") == "failed")
        let bad = try explanation("bad.service", lab)
        for text in [bad.unit, bad.daemon, bad.status] {
            #expect(text.contains("/etc/systemd/system/bad.service:4") && text.contains("VirtualAddress"), "\(text)")
        }
        #expect(bad.unit.contains("bad.service:5") && bad.unit.contains("Colour"), "\(bad.unit)")

        // Two units with one address: both are named with file and line, and neither starts.
        for name in ["one", "two"] {
            try lab.install(
                unit: "\(name).service", on: "a", Self.sleeper + "[X-Mobility]\nVirtualAddress=10.10.10.77/24\n")
        }
        for (name, other) in [("one", "two"), ("two", "one")] {
            #expect(
                try !a.run("systemctl", "start", "\(name).service", allowFailure: true).succeeded, "\(name) started")
            let said = try explanation("\(name).service", lab)
            for text in [said.unit, said.status] {
                #expect(
                    text.contains("/etc/systemd/system/\(other).service:4") && text.contains("10.10.10.77"),
                    "\(name): \(text)")
            }
        }

        // An address that no interface's subnet holds.
        try lab.install(unit: "far.service", on: "a", Self.sleeper + "[X-Mobility]\nVirtualAddress=192.0.2.7/24\n")
        #expect(try !a.run("systemctl", "start", "far.service", allowFailure: true).succeeded)
        let far = try explanation("far.service", lab)
        for text in [far.unit, far.status] {
            #expect(text.contains("192.0.2.7") && text.contains("subnet"), "\(text)")
        }

        // All the while the good one starts, runs and moves.
        let pid = try lab.start(on: "a")
        try lab.expectMove(from: "a", to: "b", pid: pid)
        #expect(try a.run("ip", "-o", "address").output.contains("10.10.10.77/") == false)
    }

    @Test func `An address that somebody on the network has is not taken`() throws {
        if skippedWithoutRoot() { return }
        let lab = try RollbackLab("taken")
        let (a, client) = try (lab["a"], lab["c"])
        try client.run("ip", "address", "add", "\(RollbackLab.address)/32", "dev", "eth0")
        // Not from /sys: a client has the machine's files.
        let link = try client.run("ip", "-o", "link", "show", "eth0").output.split(separator: " ").map(String.init)
        let mac = try #require(link.firstIndex(of: "link/ether").map { link[$0 + 1] })
        #expect(try !a.run("systemctl", "start", RollbackLab.unit, allowFailure: true).succeeded)
        let said = try explanation(RollbackLab.unit, lab)
        for text in [said.unit, said.status] {
            #expect(text.contains(mac) && text.contains(RollbackLab.address), "\(text)")
        }
        #expect(try !a.run("ip", "-o", "address").output.contains(RollbackLab.address + "/"))
        try client.run("ip", "address", "del", "\(RollbackLab.address)/32", "dev", "eth0")

        try lab.start(on: "a")
        #expect(try !a.run("mobilityctl", "status", RollbackLab.unit).output.contains(mac))
        #expect(try a.run("ip", "-o", "address").output.contains(" \(RollbackLab.address)/32 "))
        try a.run("systemctl", "stop", RollbackLab.unit)
        #expect(try !a.run("ip", "-o", "address").output.contains(RollbackLab.address + "/"))
    }

    @Test func `A unit that has moved starts only where it is`() throws {
        if skippedWithoutRoot() { return }
        let lab = try RollbackLab("guard")
        let (a, b) = try (lab["a"], lab["b"])
        let pid = try lab.start(on: "a")
        let talk = try lab.connect()
        try lab.expectMove(from: "a", to: "b", pid: pid)
        // systemd takes a false condition for a skipped start, not for a failed one.
        try a.run("systemctl", "start", RollbackLab.unit, allowFailure: true)
        #expect(try lab.property("ActiveState", on: "a") == "inactive")
        let said = try lab.log(of: RollbackLab.unit, on: "a")
        #expect(said.contains("runs on node b") && said.contains("mobilityctl migrate"), "\(said)")
        try talk.awaitProgress()
        try talk.finish()

        // Stopped over there it is free to start here again; while b cannot be asked it is not.
        try b.run("systemctl", "stop", RollbackLab.unit)
        #expect(try !b.run("ip", "-o", "address").output.contains(RollbackLab.address + "/"))
        try lab.lab.link("b", up: false)
        try a.run("systemctl", "start", RollbackLab.unit, allowFailure: true)
        #expect(try lab.property("ActiveState", on: "a") == "inactive")
        #expect(try lab.log(of: RollbackLab.unit, on: "a").contains("cannot be asked"))
        try lab.lab.link("b", up: true)
        try lab.start(on: "a")
        try lab.connect().finish()
        try a.run("systemctl", "stop", RollbackLab.unit)
    }

    @Test func `A host that is no longer enrolled gets nothing`() throws {
        if skippedWithoutRoot() { return }
        let lab = try RollbackLab("stranger", hosts: ["a", "b", "d"])
        let pid = try lab.start(on: "a")
        for host in ["a", "b"] {
            try lab[host].run("sh", "-c", "rm /etc/mobilityd/nodes/d.*")
            try lab[host].run("systemctl", "reload", "mobilityd")
        }
        let (a, d) = try (lab["a"], lab["d"])
        let there = try lab.migrate(from: "a", to: "d")
        #expect(
            there.status == .exited(5) && there.errorOutput.contains("node d is not enrolled"), "\(there.errorOutput)")
        // It still trusts them, they do not trust it: neither a check nor a question is answered.
        try lab.start(
            "sleeper.service", installedOn: "d", Self.sleeper + "[X-Mobility]\nVirtualAddress=10.10.10.55/24\n")
        let check = try d.run("mobilityctl", "check", "sleeper.service", "a", allowFailure: true)
        #expect(check.status == .exited(1) && check.output.contains("✗"), "\(check.output)")
        let move = try lab.migrate("sleeper.service", from: "d", to: "a")
        #expect(!move.succeeded)
        #expect(try lab.property("ActiveState", of: "sleeper.service", on: "d") == "active")
        try waitUntil("a's complaint about d") { try lab.log(on: "a", lines: 60).contains(d.address) }
        #expect(try lab.property("MainPID", on: "a") == "\(pid)")
        #expect(try a.run("systemctl", "is-active", "mobilityd").trimmed == "active")
    }

    @Test func `What the unit's processes send leaves from its address, what others send does not`() throws {
        if skippedWithoutRoot() { return }
        let lab = try RollbackLab("hook")
        let (a, client) = try (lab["a"], lab["c"])
        // Tells each peer the address that it comes from.
        let mirror = try client.spawn(
            "python3", "-c",
            """
            import socket
            s = socket.create_server(('10.10.10.100', 7010))
            print('ready', flush=True)
            while True:
                k, peer = s.accept()
                k.sendall(peer[0].encode()); k.close()
            """)
        defer { mirror.kill() }
        try waitUntil("the mirror") { mirror.output.contains("ready") }
        let ask = "import socket; print(socket.create_connection(('10.10.10.100', 7010)).recv(64).decode(), flush=True)"
        try a.write("/usr/local/bin/ask", "#!/usr/bin/python3\n\(ask)\nimport time; time.sleep(600)\n", mode: 0o755)
        try lab.start(
            "ask.service", installedOn: "a",
            "[Service]\nExecStart=/usr/local/bin/ask\n[X-Mobility]\nVirtualAddress=10.10.10.56/24\n")
        try waitUntil("answer in the unit's journal") {
            try lab.log(of: "ask.service", on: "a").split(separator: "\n").contains("10.10.10.56")
        }
        #expect(try a.run("python3", "-c", ask).trimmed == a.address)
        #expect(try a.run("mobilityctl", "status", "ask.service").output.contains("attached"))
        try a.run("systemctl", "stop", "ask.service")
        #expect(try a.run("python3", "-c", ask).trimmed == a.address)
    }
}

extension RollbackLab {
    /// Installs a unit and starts it.
    func start(_ unit: String, installedOn host: String, _ text: String) throws {
        try install(unit: unit, on: host, text)
        try start(unit, on: host)
    }
}
