import Glibc
import Lab
import Testing

/// Services that check themselves, and their peers, see nothing of a move.
@Suite(.serialized, .survivalLab("count"))
struct SurvivalCounterTests {
    /// A unit of counter with an address of its own.
    private func installCounter(_ lab: Lab, _ name: String, address: String, extra: String = "") throws {
        let program = try lab.compile("counter")
        try lab.installService(
            "\(name).service",
            """
            [Service]
            Type=simple
            ExecStart=\(program) \(address) 7000
            \(extra)
            [X-Mobility]
            VirtualAddress=\(address)/24

            """)
    }

    private func startClient(_ lab: Lab, _ address: String) throws -> LabProcess {
        let client = try lab["c"].spawn(lab.clientProgram("counter-client"), address, "7000")
        do {
            try waitUntil("numbers from \(address)") { try numbers(client) > 50 }
        } catch {
            client.kill()
            throw LabError("\(error); \(client.errorOutput)")
        }
        return client
    }

    /// The client's latest count.
    private func numbers(_ client: LabProcess) throws -> Int {
        let text = client.output
        guard let line = text.split(separator: "\n").last(where: { $0.hasSuffix("}") }),
            let value = line.split(separator: ":").dropFirst().first?.prefix(while: \.isNumber), let count = Int(value)
        else { throw LabError("no number yet: \(client.errorOutput)") }
        return count
    }

    private func awaitMore(_ client: LabProcess) throws {
        let seen = try numbers(client)
        try waitUntil("more numbers at the client") {
            guard client.isRunning else { throw LabError("it has ended: \(client.errorOutput)") }
            return try numbers(client) > seen + 50
        }
    }

    @Test(arguments: [("counter", "10.10.10.21", ""), ("counter-user", "10.10.10.22", "User=www-data\n")])
    func `A counter counts on through two moves, and so does its client`(
        name: String, address: String, extra: String
    ) throws {
        guard let lab = SurvivalLab.lab() else { return }
        let unit = name + ".service"
        try installCounter(lab, name, address: address, extra: extra)
        try lab["a"].start(unit)
        let original = try MasterProcess(of: unit, on: lab["a"])
        let client = try startClient(lab, address)
        defer { client.kill() }
        let counters = try ClientCounters(lab["c"])
        for (source, destination) in [("a", "b"), ("b", "a")] {
            try lab.migrate(unit, from: source, to: destination)
            try awaitMore(client)
            try expectArrived(unit, original, lab[destination])
            try expectLeft(unit, lab[source])
            #expect(try lab[destination].property("ExecMainStatus", of: unit) == "0")
        }
        try counters.expectNone()
        try client.signal(SIGTERM)
        #expect(try client.wait(timeout: .seconds(5)) == .exited(0))
        #expect(client.output.contains("\"errors\":0"))
        #expect(client.errorOutput == "")
        try lab["a"].run("systemctl", "stop", unit)
    }

    @Test func `Stop here and start there in place of a move is noticed by the client`() throws {
        guard let lab = SurvivalLab.lab() else { return }
        try installCounter(lab, "counter-stopped", address: "10.10.10.23")
        try lab["a"].start("counter-stopped.service")
        let client = try startClient(lab, "10.10.10.23")
        defer { client.kill() }
        try lab["a"].run("systemctl", "stop", "counter-stopped.service")
        try lab["b"].start("counter-stopped.service")
        #expect(try client.wait(timeout: .seconds(20)) == .exited(1))
        #expect(!client.output.contains("\"errors\":0"))
        try lab["b"].run("systemctl", "stop", "counter-stopped.service")
    }

    @Test func `A service that is a client keeps its connection, and connects from its address after a move`() throws {
        guard let lab = SurvivalLab.lab() else { return }
        let (unit, address) = ("outward.service", "10.10.10.24")
        let program = try lab.compile("outward")
        let client = try lab["c"]
        let server = try echoServer(lab, port: 7001)
        defer { server.kill() }
        try lab.installService(
            unit,
            """
            [Service]
            ExecStart=\(program) \(client.address) 7001

            """)
        try lab.annotate(unit: unit, address: address)
        try lab["a"].start(unit)
        try waitUntil("connection of \(unit)") { server.output.contains("\"peer\":\"\(address)\"") }
        let original = try MasterProcess(of: unit, on: lab["a"])
        for (source, destination) in [("a", "b"), ("b", "a")] {
            let counters = try ClientCounters(client)
            try lab.migrate(unit, from: source, to: destination)
            try expectArrived(unit, original, lab[destination])
            try expectLeft(unit, lab[source])
            try counters.expectNone()
            try expectConnects(lab, unit, on: destination, from: address, port: destination == "b" ? 7002 : 7003)
        }
        try server.signal(SIGTERM)
        #expect(try server.wait(timeout: .seconds(5)) == .exited(0))
        #expect(server.output.contains("\"errors\":0"))
        try lab["a"].run("systemctl", "stop", unit, allowFailure: true)
    }

    private func echoServer(_ lab: Lab, port: Int) throws -> LabProcess {
        let server = try lab["c"].spawn(lab.clientProgram("echo-server"), "\(port)")
        try waitUntil("echo-server on \(port)") { server.output.contains("listening") }
        return server
    }

    /// A further process in the unit's cgroup connects: its peer sees the virtual address.
    private func expectConnects(
        _ lab: Lab, _ unit: String, on host: String, from address: String, port: Int
    ) throws {
        let server = try echoServer(lab, port: port)
        defer { server.kill() }
        let group = "/sys/fs/cgroup" + (try lab[host].property("ControlGroup", of: unit)) + "/cgroup.procs"
        let extra = try lab[host].spawn(
            "sh", "-c", "echo $$ > \(group) && exec \(Lab.programDirectory)/outward \(lab["c"].address) \(port)")
        try waitUntil("new connection from \(unit)") { server.output.contains("peer") }
        #expect(server.output.contains("\"peer\":\"\(address)\""))
        // The server first: it takes the end of a connection for an error.
        try server.signal(SIGTERM)
        #expect(try server.wait(timeout: .seconds(5)) == .exited(0))
        try extra.wait(timeout: .seconds(5))
    }
}
