import Glibc
import Lab
import Testing

/// Memory and files with names, which a host has and not only a process: what goes along, and what must be there.
@Suite(.serialized, .survivalLab("memory"))
struct SurvivalMemoryTests {
    private static let segments = ["/dev/shm/segments-test", "/dev/shm/sem.segments-test"]

    @Test func `Segments and semaphores of two processes go along, and leave nothing behind`() throws {
        guard let lab = SurvivalLab.lab() else { return }
        let (unit, address) = ("segments.service", "10.10.10.71")
        let program = try lab.compile("segments")
        try lab.installService(unit, "[Service]\nUser=www-data\nExecStart=\(program) \(address) 7000\n")
        try lab.annotate(unit: unit, address: address)
        try lab["a"].start(unit)
        let original = try MasterProcess(of: unit, on: lab["a"])
        let client = try Asker(lab, address, port: 7000)
        #expect(try client.ask("check") == "OK")
        let counters = try ClientCounters(lab["c"])
        for (source, destination) in [("a", "b"), ("b", "a"), ("a", "b")] {
            try lab.migrate(unit, from: source, to: destination)
            let answer = try client.ask("check")
            #expect(answer == "OK", "after \(source)→\(destination)")
            try expectArrived(unit, original, lab[destination])
            #expect(try segments(on: lab[source]) == [])
            #expect(try segments(on: lab[destination]) == Self.segments)
        }
        try counters.expectNone()
        client.close()
        try lab["b"].run("systemctl", "stop", unit)
    }

    @Test func `Datagrams that nobody has read yet go along, in order and with their senders`() throws {
        guard let lab = SurvivalLab.lab() else { return }
        let (unit, address) = ("mailbox.service", "10.10.10.76")
        let program = try lab.compile("mailbox")
        try lab.installService(unit, "[Service]\nExecStart=\(program) \(address) 7000\n")
        try lab.annotate(unit: unit, address: address)
        try lab["a"].start(unit)
        let original = try MasterProcess(of: unit, on: lab["a"])
        let client = try Asker(lab, address, port: 7000)
        for (source, destination) in [("a", "b"), ("b", "a")] {
            try lab["c"].run(
                "python3", "-c",
                """
                import socket
                for box in range(2):
                    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                    sender.bind(('\(lab["c"].address)', 7100 + box))
                    for i in range(200):
                        sender.sendto(bytes([i & 255]) * [0, 1, 1400, 9000][i % 4], ('\(address)', 7001 + box))
                """)
            try lab.migrate(unit, from: source, to: destination)
            let answer = try client.ask("take 200")
            #expect(answer == "OK", "after \(source)→\(destination)")
            try expectArrived(unit, original, lab[destination])
        }
        client.close()
        try lab["a"].run("systemctl", "stop", unit)
    }

    @Test func `Shared memory that is in use elsewhere is found by the check`() throws {
        guard let lab = SurvivalLab.lab() else { return }
        let (unit, address) = ("inuse.service", "10.10.10.72")
        let program = try lab.compile("segments")
        try lab.installService(unit, "[Service]\nExecStart=\(program) \(address) 7000\n")
        try lab.annotate(unit: unit, address: address)
        let (a, b) = (try lab["a"], try lab["b"])
        try b.run(["rm", "-f"] + Self.segments)
        try a.start(unit)
        let client = try Asker(lab, address, port: 7000)
        #expect(try client.ask("check") == "OK")

        try b.write(Self.segments[0], "somebody else's")
        try expectRefusal(of: unit, lab, ["memory", Self.segments[0], "is on node b already"])
        #expect(try b.readText(Self.segments[0]) == "somebody else's")
        try b.run("rm", Self.segments[0])

        let other = try a.spawn(
            "python3", "-c",
            """
            import mmap, time
            file = open('\(Self.segments[0])')
            view = mmap.mmap(file.fileno(), 4096, prot=1)
            time.sleep(99)
            """)
        defer { other.kill() }
        try waitUntil("the other process' mapping") {
            try !a.run("mobilityctl", "check", unit, "b", allowFailure: true).succeeded
        }
        try expectRefusal(of: unit, lab, [Self.segments[0], "(python3) outside the unit uses it too"])
        other.kill()
        try waitUntil("the other process' end") {
            try a.run("mobilityctl", "check", unit, "b", allowFailure: true).succeeded
        }
        #expect(try client.ask("check") == "OK")
        client.close()
        try a.run("systemctl", "stop", unit)
        try a.run(["rm", "-f"] + Self.segments)
    }

    @Test func `A file that is written to and a port that is taken are found by the check`() throws {
        guard let lab = SurvivalLab.lab() else { return }
        let (unit, address, file) = ("keeps.service", "10.10.10.73", "/var/lib/keeps.db")
        let script = """
            import socket
            file = open('\(file)', 'r+b')
            s = socket.create_server(('\(address)', 7000))
            while True: s.accept()[0].send(b'here\\n')
            """
        try lab.installService(unit, "[Service]\nExecStart=/usr/bin/python3 /var/lib/keeps.py\n")
        try lab.annotate(unit: unit, address: address)
        let (a, b) = (try lab["a"], try lab["b"])
        for host in [a, b] { try host.write("/var/lib/keeps.py", script) }
        try a.write(file, "content")
        try a.start(unit)
        try waitUntil("the service") {
            try a.run("ss", "-ltn", "src", "\(address)").output.contains(":7000")
        }
        try expectRefusal(of: unit, lab, ["file", file, "ENOENT"])
        try b.write(file, "content")

        // What a socket unit does that stays on the other host.
        let listener = try b.spawn(
            "python3", "-c",
            """
            import socket, time
            s = socket.socket()
            s.setsockopt(socket.SOL_IP, 15, 1)  # IP_FREEBIND
            s.bind(('\(address)', 7000))
            s.listen()
            time.sleep(99)
            """)
        defer { listener.kill() }
        try waitUntil("the listener on b") { try b.run("ss", "-ltn", "src", address).output.contains(":7000") }
        try expectRefusal(of: unit, lab, ["port", "tcp 7000", "is in use on node b"])
        listener.kill()
        try waitUntil("the end of the listener") { try !b.run("ss", "-ltn", "src", address).output.contains(":7000") }
        try lab.migrate(unit, from: "a", to: "b")
        try b.run("systemctl", "stop", unit)
    }

    private func segments(on host: LabHost) throws -> [String] {
        try host.run("sh", "-c", "ls -d /dev/shm/*segments* 2>/dev/null; true").output
            .split(separator: "\n").map(String.init)
    }

    /// The check fails with a line that has all of `words`, and the service is where it was.
    private func expectRefusal(
        of unit: String, _ lab: Lab, _ words: [String], sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        let result = try lab["a"].run("mobilityctl", "check", unit, "b", allowFailure: true)
        let found = result.output.split(separator: "\n").contains { line in
            line.contains("✗") && words.allSatisfy { line.contains($0) }
        }
        #expect(result.status == .exited(1) && found, "\(result.output)", sourceLocation: sourceLocation)
    }
}
