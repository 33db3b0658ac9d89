import Glibc
import Lab
import Testing

/// Clients whom the service has not accepted when it moves: in a listener's queue, with what they have said already, or
/// still in the handshake.
@Suite(.serialized, .survivalLab("queue"))
struct SurvivalQueueTests {
    private static let unit = "hoard.service"

    private func install(_ lab: Lab, _ address: String) throws {
        let program = try lab.compile("hoard")
        try lab.installService(Self.unit, "[Service]\nExecStart=\(program) serve \(address) 7000\n")
        try lab.annotate(unit: Self.unit, address: address)
        try lab["a"].start(Self.unit)
    }

    private func stop(_ lab: Lab) {
        for host in ["a", "b"] { _ = try? lab[host].run("systemctl", "stop", Self.unit, allowFailure: true) }
    }

    @Test(arguments: ["10.10.10.77", "fd10:10:10::77"])
    func `Connections that wait to be accepted go along, in their order, with what was said`(
        _ address: String
    ) throws {
        guard let lab = SurvivalLab.lab() else { return }
        defer { stop(lab) }
        try install(lab, address)
        let original = try MasterProcess(of: Self.unit, on: lab["a"])
        let counters = try ClientCounters(lab["c"])
        let clients = try lab["c"].spawn(lab.clientProgram("hoard"), "load", address, "7000", "200")
        try waitUntil("the clients", timeout: .seconds(20)) { clients.output.contains("start") }
        try lab.migrate(Self.unit, from: "a", to: "b")
        try lab.migrate(Self.unit, from: "b", to: "a")
        try lab.migrate(Self.unit, from: "a", to: "b")
        try expectArrived(Self.unit, original, lab["b"])
        try lab["b"].run("kill", "-USR1", "\(original.pid)")
        #expect(try clients.wait(timeout: .seconds(20)).succeeded)
        #expect(
            clients.output.contains(#"{"event":"end","requests":200,"failed":0}"#),
            "\(clients.output)\(clients.errorOutput)")
        try counters.expectNone()
    }

    /// The client's last segment of the handshake is lost again and again: it believes itself connected, the service
    /// knows nothing of it.
    @Test(arguments: ["10.10.10.78", "fd10:10:10::78"])
    func `A handshake that is not over goes along`(_ address: String) throws {
        guard let lab = SurvivalLab.lab() else { return }
        defer { stop(lab) }
        try install(lab, address)
        let original = try MasterProcess(of: Self.unit, on: lab["a"])
        let client = try lab["c"]
        let counters = try ClientCounters(client)
        try client.run(
            "nft",
            """
            table inet late { chain out { type filter hook output priority 0;
            tcp dport 7000 tcp flags & (syn | ack) == ack drop; }; }
            """)
        defer { _ = try? client.run("nft", "delete", "table", "inet", "late") }
        let load = try client.spawn(lab.clientProgram("hoard"), "load", address, "7000", "1")
        try waitUntil("the client, which believes itself connected") { load.output.contains("start") }
        func connections(_ host: String, _ state: String) throws -> [Substring] {
            try lab[host].run("ss", "-Htn", "state", state, "src", "[\(address)]:7000").output.split(separator: "\n")
        }
        try #require(connections("a", "syn-recv").count == 1)
        // It is not heard of between the moves either.
        for (source, destination) in [("a", "b"), ("b", "a")] {
            try lab.migrate(Self.unit, from: source, to: destination)
        }
        #expect(try connections("a", "established").isEmpty)
        try client.run("nft", "delete", "table", "inet", "late")
        try waitUntil("the handshake's end", timeout: .seconds(20)) {
            try connections("a", "established").count == 1
        }
        try lab["a"].run("kill", "-USR1", "\(original.pid)")
        #expect(try load.wait(timeout: .seconds(20)).succeeded)
        #expect(load.output.contains(#"{"event":"end","requests":1,"failed":0}"#), "\(load.output)\(load.errorOutput)")
        try counters.expectNone()
    }

    private func connections(_ host: LabHost, _ state: String, _ address: String) throws -> Int {
        try host.run("ss", "-Htn", "state", state, "src", "[\(address)]:7000").output.split(separator: "\n").count
    }

    /// What the host's kernel remembers of the handshake, which nobody has ended there, must not stand in the way.
    @Test(arguments: ["10.10.10.79", "fd10:10:10::79"])
    func `A client whose handshake ended elsewhere comes back with the service`(_ address: String) throws {
        guard let lab = SurvivalLab.lab() else { return }
        defer { stop(lab) }
        try install(lab, address)
        let client = try lab["c"]
        let original = try MasterProcess(of: Self.unit, on: lab["a"])
        let counters = try ClientCounters(client)
        try client.run(
            "nft",
            """
            table inet late { chain out { type filter hook output priority 0;
            tcp dport 7000 tcp flags & (syn | ack) == ack drop; }; }
            """)
        defer { _ = try? client.run("nft", "delete", "table", "inet", "late", allowFailure: true) }
        let repeated = try lab["a"].counters()["TcpExt.TCPSynRetrans"] ?? 0
        let load = try client.spawn(lab.clientProgram("hoard"), "load", address, "7000", "1")
        try waitUntil("the client, which believes itself connected") { load.output.contains("start") }
        // With every SYN-ACK that it repeats, after 1, 2 and 4 s, the host waits twice as long until it looks again.
        try waitUntil("the third SYN-ACK again", timeout: .seconds(20)) {
            try lab["a"].counters()["TcpExt.TCPSynRetrans"] ?? 0 >= repeated + 3
        }
        try lab.migrate(Self.unit, from: "a", to: "b")
        try client.run("nft", "delete", "table", "inet", "late")
        try waitUntil("the handshake's end", timeout: .seconds(20)) {
            try connections(lab["b"], "established", address) == 1
        }
        try #require(connections(lab["a"], "syn-recv", address) == 1, "the former host has forgotten the handshake")
        try lab.migrate(Self.unit, from: "b", to: "a")
        #expect(try connections(lab["a"], "established", address) == 1)
        try lab["a"].run("kill", "-USR1", "\(original.pid)")
        #expect(try load.wait(timeout: .seconds(20)).succeeded)
        #expect(load.output.contains(#"{"event":"end","requests":1,"failed":0}"#), "\(load.output)\(load.errorOutput)")
        try counters.expectNone()
    }

    /// The client has not got our SYN-ACK, and its second SYN waits while the service moves: it is answered once.
    @Test(arguments: ["10.10.10.80", "fd10:10:10::80"])
    func `A client that repeats its SYN while the service moves is answered once`(_ address: String) throws {
        guard let lab = SurvivalLab.lab() else { return }
        defer { stop(lab) }
        try install(lab, address)
        let client = try lab["c"]
        let original = try MasterProcess(of: Self.unit, on: lab["a"])
        let counters = try ClientCounters(client)
        let wire = try WireCapture(client, "tcp port 7000")
        try client.run(
            "nft",
            """
            table inet deaf { chain in { type filter hook input priority 0;
            tcp sport 7000 tcp flags & (syn | ack) == syn | ack drop; }; }
            """)
        defer { _ = try? client.run("nft", "delete", "table", "inet", "deaf", allowFailure: true) }
        let load = try client.spawn(lab.clientProgram("hoard"), "load", address, "7000", "1")
        try waitUntil("the handshake") { try connections(lab["a"], "syn-recv", address) == 1 }
        let move = try lab.holdMove(of: Self.unit, from: "a", to: "b", at: "source.frozen", on: "a") {
            let before = try client.counters()["TcpExt.TCPTimeouts"] ?? 0
            try waitUntil("the next SYN", timeout: .seconds(20)) {
                try client.counters()["TcpExt.TCPTimeouts"] ?? 0 > before
            }
            try client.run("nft", "delete", "table", "inet", "deaf")
        }
        #expect(try move.wait(timeout: .seconds(30)).succeeded, "\(move.errorOutput)")
        try waitUntil("the connection", timeout: .seconds(20)) {
            try connections(lab["b"], "established", address) == 1
        }
        try lab["b"].run("kill", "-USR1", "\(original.pid)")
        #expect(try load.wait(timeout: .seconds(20)).succeeded)
        #expect(load.output.contains(#"{"event":"end","requests":1,"failed":0}"#), "\(load.output)\(load.errorOutput)")
        try wire.finish()
        let answers = try wire.rows("tcp.flags.syn == 1 && tcp.flags.ack == 1", "tcp.seq_raw").map { $0[0] }
        #expect(answers.count > 1 && Set(answers).count == 1, "SYN-ACKs \(answers)")
        try counters.expectNone(besides: "TcpExt.TCPTimeouts")
    }
}
