import Glibc
import Kernel
import Lab
import Testing

/// A unit of each Type= arrives as what it was: systemd goes on managing it.
@Suite(.serialized, .survivalLab("types"))
struct SurvivalTypeTests {
    struct Variant: CustomTestStringConvertible {
        let name: String
        let address: String
        /// The lines of [Service] but ExecReload=; `%p` stands for the program.
        let lines: String
        var testDescription: String { name }

        static let all = [
            Variant(name: "simple", address: "10.10.10.31", lines: "Type=simple\nExecStart=%p run 10.10.10.31 7000"),
            Variant(name: "exec", address: "10.10.10.32", lines: "Type=exec\nExecStart=%p run 10.10.10.32 7000"),
            Variant(name: "notify", address: "10.10.10.33", lines: "Type=notify\nExecStart=%p notify 10.10.10.33 7000"),
            Variant(
                name: "forking-pidfile", address: "10.10.10.34",
                lines: "Type=forking\nPIDFile=/run/typed.pid\nExecStart=%p fork 10.10.10.34 7000 /run/typed.pid"),
            Variant(name: "forking", address: "10.10.10.35", lines: "Type=forking\nExecStart=%p fork 10.10.10.35 7000"),
            // As systemd-sysv-generator(8) makes them.
            Variant(
                name: "unguessed", address: "10.10.10.45",
                lines: "Type=forking\nGuessMainPID=no\nRemainAfterExit=yes\nExecStart=%p fork 10.10.10.45 7000"),
            Variant(
                name: "remains", address: "10.10.10.46",
                lines: "Type=simple\nRemainAfterExit=yes\nExecStart=%p run 10.10.10.46 7000"),
        ]
    }

    @Test(arguments: Variant.all) func `A unit of each type moves and stays manageable`(variant: Variant) throws {
        guard let lab = SurvivalLab.lab() else { return }
        let unit = "typed-\(variant.name).service"
        let program = try lab.compile("typed")
        try lab.installService(
            unit,
            """
            [Service]
            \(variant.lines.replacing("%p", with: program))
            ExecReload=/bin/kill -HUP $MAINPID
            [X-Mobility]
            VirtualAddress=\(variant.address)/24

            """)
        let type = variant.lines.split(separator: "\n")[0].dropFirst(5)
        try lab["a"].start(unit)
        let original = try MasterProcess(of: unit, on: lab["a"])
        let client = try Asker(lab, variant.address, port: 7000)
        #expect(try client.ask("count") == "1 \(original.pid)")
        let listener = try lab["c"].spawn(lab.clientProgram("typed"), "run", lab["c"].address, "7100")
        defer { listener.kill() }
        try waitUntil("listener on c") { listener.output.contains("ready") }
        let counters = try ClientCounters(lab["c"])
        for (source, destination, count) in [("a", "b", 2), ("b", "a", 3)] {
            let host = try lab[destination]
            try lab.migrate(unit, from: source, to: destination)
            #expect(try client.ask("count") == "\(count) \(original.pid)")
            try expectArrived(unit, original, host)
            try expectLeft(unit, lab[source])
            let status = try host.run("systemctl", "status", "--no-pager", "-n", "0", unit).output
            #expect(status.contains("Active: active (running)") && status.contains("Main PID: \(original.pid)"))
            #expect(try host.property("Type", of: unit) == String(type))
            try expectInJournal("typed: answers \(count) \(original.pid)", unit, host)
            #expect(try client.ask("connect \(lab["c"].address) 7100") == variant.address)
            try host.run("systemctl", "reload", unit)
            try expectInJournal("typed: reloaded", unit, host)
        }
        try counters.expectNone()
        try expectManaged(lab["a"], unit, original, client, variant)
    }

    /// Restart makes a new process, stop an inactive unit, and none of it a failure.
    private func expectManaged(
        _ host: LabHost, _ unit: String, _ original: MasterProcess, _ client: Asker, _ variant: Variant
    ) throws {
        try host.run("systemctl", "restart", unit)
        let restarted = try MasterProcess(of: unit, on: host)
        #expect(restarted.random != original.random && restarted.pid != original.pid)
        try waitUntil("end of the connection to the old process") { !client.isOpen }
        #expect(try host.property("Result", of: unit) == "success")
        try host.run("systemctl", "stop", unit)
        #expect(try host.property("ActiveState", of: unit) == "inactive")
        #expect(try host.property("Result", of: unit) == "success")
        #expect(try host.property("DropInPaths", of: unit).contains("/run/systemd/system/\(unit).d") == false)
    }

    private func expectInJournal(_ line: String, _ unit: String, _ host: LabHost) throws {
        try waitUntil("`\(line)` in the journal of \(unit) on \(host.name)") {
            try host.journal(unit).split(separator: "\n").contains { $0 == line }
        }
    }

    @Test func `A Python web server moves and goes on printing to the journal`() throws {
        guard let lab = SurvivalLab.lab() else { return }
        let (unit, address) = ("python-web.service", "10.10.10.36")
        let script = "\(Lab.programDirectory)/web.py"
        for host in try [lab["a"], lab["b"]] { try host.write(script, Self.web) }
        try lab.installService(
            unit,
            """
            [Service]
            Type=exec
            DynamicUser=yes
            ExecStart=/usr/bin/python3 -u \(script) \(address)
            [X-Mobility]
            VirtualAddress=\(address)/24

            """)
        try lab["a"].start(unit)
        let original = try MasterProcess(of: unit, on: lab["a"])
        func get() throws -> String {
            try lab["c"].run("curl", "-sS", "--retry-connrefused", "--retry", "5", "-m", "5", "http://\(address):8000/")
                .trimmed
        }
        #expect(try get() == "1 \(original.pid)")
        let counters = try ClientCounters(lab["c"])
        for (source, destination, count) in [("a", "b", 2), ("b", "a", 3)] {
            try lab.migrate(unit, from: source, to: destination)
            #expect(try get() == "\(count) \(original.pid)")
            try expectArrived(unit, original, lab[destination])
            try expectLeft(unit, lab[source])
            try expectInJournal("request \(count)", unit, lab[destination])
        }
        try counters.expectNone()
        try lab["a"].run("systemctl", "stop", unit)
    }

    private static let web = """
        import http.server, os, sys
        count = 0
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                global count
                count += 1
                body = f"{count} {os.getpid()}\\n".encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                print(f"request {count}")
            def log_message(self, *_):
                pass
        http.server.ThreadingHTTPServer((sys.argv[1], 8000), Handler).serve_forever()

        """
}
