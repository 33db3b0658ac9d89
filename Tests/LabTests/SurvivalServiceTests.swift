import Glibc
import Kernel
import Lab
import Testing

/// Servers of Debian with their stock units, in use while they move.
@Suite(.serialized, .survivalLab("services"))
struct SurvivalServiceTests {
    @Test func `redis loses no acknowledged write`() throws {
        guard let lab = SurvivalLab.lab(), Self.isInstalled("redis-server", "/usr/bin/redis-server") else { return }
        let (unit, address) = ("redis-server.service", "10.10.10.61")
        for host in try [lab["a"], lab["b"]] {
            // Debian's own listens on the loopback only; what comes later counts.
            try host.run(
                "sh", "-c", "printf 'bind \(address)\\nprotected-mode no\\n' >> /etc/redis/redis.conf")
        }
        try lab.annotate(unit: unit, address: address)
        try lab["a"].start(unit)
        let original = try MasterProcess(of: unit, on: lab["a"])
        let counters = try ClientCounters(lab["c"])
        let writer = try lab["c"].spawn("python3", "-u", "-c", Self.redisWriter, address)
        defer { writer.kill() }
        for (source, destination) in [("a", "b"), ("b", "a")] {
            try expectProgress("writes", of: writer)
            try lab.migrate(unit, from: source, to: destination)
            try expectProgress("writes", of: writer)
            try expectArrived(unit, original, lab[destination])
            try expectLeft(unit, lab[source])
        }
        try writer.signal(SIGTERM)
        let status = try writer.wait()
        #expect(status.succeeded && writer.output.contains("all there"), "\(writer.output.suffix(400))")
        try counters.expectNone()
        try lab["a"].run("systemctl", "stop", unit)
    }

    @Test(arguments: ["prefork", "event"]) func `apache2 answers kept connections, and reloads`(mpm: String) throws {
        guard let lab = SurvivalLab.lab(), Self.isInstalled("apache2", "/usr/sbin/apache2") else { return }
        let (unit, address) = ("apache2.service", mpm == "event" ? "10.10.10.62" : "10.10.10.63")
        for host in try [lab["a"], lab["b"]] {
            try host.run("sh", "-c", "a2dismod -q -f mpm_event mpm_prefork; a2enmod -q mpm_\(mpm)")
        }
        try lab.annotate(unit: unit, address: address)
        try lab["a"].start(unit)
        let original = try MasterProcess(of: unit, on: lab["a"])
        // More than prefork has processes for at first: it makes more of them while it moves.
        let load = try lab["c"].spawn(
            Product.releaseDirectory + "/labload", "keepalive", "--host", address, "--path", "/index.html",
            "--connections", "8", "--interval-ms", "20")
        defer { load.kill() }
        try waitUntil("start of labload") { load.output.contains("\"start\"") }
        for (source, destination) in [("a", "b"), ("b", "a"), ("a", "b")] {
            try lab.migrate(unit, from: source, to: destination)
            try expectArrived(unit, original, lab[destination])
            try expectLeft(unit, lab[source])
            try waitUntil("answers on \(destination)") {
                let window = try load.loadReport("window")
                #expect(window["failed"] == 0 && window["resets"] == 0, "\(load.output.suffix(300))")
                return window["requests"] ?? 0 > 0
            }
        }
        let total = try load.loadReport("end")
        #expect(total["failed"] == 0 && total["resets"] == 0, "\(load.output.suffix(300))")
        #expect(total["requests"] ?? 0 > 300)
        // apachectl finds the server by its PID file, which Debian's unit does not name.
        let host = try lab["b"]
        try #expect(!lab["a"].run("test", "-e", "/run/apache2/apache2.pid", allowFailure: true).succeeded)
        try host.run("systemctl", "reload", unit)
        try expectArrived(unit, original, host)
        try lab["c"].run("curl", "-sSf", "-o", "/dev/null", "http://\(address)/index.html")
        try host.run("systemctl", "restart", unit)
        #expect(try MasterProcess(of: unit, on: host).random != original.random)
        try host.run("systemctl", "stop", unit)
        #expect(try host.property("Result", of: unit) == "success")
    }

    @Test func `a service that makes a process after its description moves at the second attempt`() throws {
        guard let lab = SurvivalLab.lab() else { return }
        let unit = "growing.service"
        try lab.installService(
            unit,
            """
            [Service]
            ExecStart=/usr/bin/python3 -c "\
            import os, signal, time\\n\
            while not os.path.exists('/run/systemd/system/\(unit).d/zz-mobility-departing.conf'): time.sleep(0.001)\\n\
            os.fork()\\n\
            while True: signal.pause()"

            """)
        try lab.annotate(unit: unit, address: "10.10.10.64")
        try lab["a"].start(unit)
        let original = try MasterProcess(of: unit, on: lab["a"])
        try lab.migrate(unit, from: "a", to: "b")
        try expectArrived(unit, original, lab["b"])
        try expectLeft(unit, lab["a"])
        #expect(try lab["a"].journal("mobilityd").contains("describing \(unit) again"))
        #expect(try lab["b"].property("TasksCurrent", of: unit) != "1")
        try lab["b"].run("systemctl", "stop", unit)
    }

    /// Waits until the client has printed another line that begins with `word`.
    private func expectProgress(_ word: String, of client: LabProcess) throws {
        func lines() -> Int { client.output.split(separator: "\n").filter { $0.hasPrefix(word) }.count }
        let before = lines()
        try waitUntil("\(word) of the client; it wrote \(client.output.suffix(300))") { lines() > before }
    }

    private static func isInstalled(_ package: String, _ program: String) -> Bool {
        if Files.exists(program) { return true }
        print("a test skipped, because package \(package) could not be installed")
        return false
    }

    /// Appends numbers to a list over one connection, each after the answer to the one before, and reads all of them
    /// back at SIGTERM. Prints a line each hundred writes.
    private static let redisWriter = """
        import signal, socket, sys
        ended = []
        signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
        stream = socket.create_connection((sys.argv[1], 6379), 30).makefile('rwb')
        def ask(*words):
            parts = b''.join(b'$%d\\r\\n%s\\r\\n' % (len(word), word) for word in words)
            stream.write(b'*%d\\r\\n' % len(words) + parts); stream.flush()
            return answer()
        def answer():
            line = stream.readline()
            if not line.endswith(b'\\r\\n'): sys.exit('the connection ended')
            if line[:1] == b'*': return [answer() for _ in range(int(line[1:]))]
            return stream.read(int(line[1:]) + 2)[:-2] if line[:1] == b'$' else line.strip()
        count = 0
        while not ended:
            count += 1
            length = ask(b'RPUSH', b'numbers', b'%d' % count)
            if length != b':%d' % count: sys.exit('write %d was answered by %r' % (count, length))
            if count % 100 == 0: print('writes', count)
        there = ask(b'LRANGE', b'numbers', b'0', b'-1')
        if there != [b'%d' % n for n in range(1, count + 1)]:
            sys.exit('of %d writes %d are there' % (count, len(there)))
        print('all there', count)
        """
}
