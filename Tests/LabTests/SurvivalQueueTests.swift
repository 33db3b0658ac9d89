import Glibc
import Lab
import Testing

/// Clients whom the service has not accepted when it moves: in a listener's queue, with what they have said already, or
/// still in the handshake.
@Suite(.serialized, .survivalLab("queue"))
struct SurvivalQueueTests {
    private static let unit = "hoard.service"

    /// The service on host a.
    private func start(_ lab: Lab, _ address: String) throws -> MasterProcess {
        let program = try lab.compile("hoard")
        try lab.installService(Self.unit, "[Service]\nExecStart=\(program) serve \(address) 7000\n")
        try lab.annotate(unit: Self.unit, address: address)
        try lab["a"].start(Self.unit)
        return try MasterProcess(of: Self.unit, on: lab["a"])
    }

    private func stop(_ lab: Lab) {
        for host in ["a", "b"] { _ = try? lab[host].run("systemctl", "stop", Self.unit, allowFailure: true) }
    }

    private func connections(_ host: LabHost, _ state: String, _ address: String) throws -> Int {
        try host.run("ss", "-Htn", "state", state, "src", "[\(address)]:7000").output.split(separator: "\n").count
    }

    /// Drops what the client's own rule matches on its way in or out: `hook` and `match` as nft(8) has them.
    private func lose(_ client: LabHost, _ hook: String, _ match: String) throws {
        try client.run(
            "nft", "table inet lost { chain lost { type filter hook \(hook) priority 0; \(match) drop; }; }")
    }

    private func loseNothing(_ client: LabHost) throws {
        _ = try client.run("nft", "delete", "table", "inet", "lost", allowFailure: true)
    }

    /// Has the service accept its clients and answer them.
    private func answer(_ load: LabProcess, _ clients: Int, _ original: MasterProcess, _ host: LabHost) throws {
        try host.run("kill", "-USR1", "\(original.pid)")
        #expect(try load.wait(timeout: .seconds(20)).succeeded)
        let end = #"{"event":"end","requests":\#(clients),"failed":0}"#
        #expect(load.output.contains(end), "\(load.output)\(load.errorOutput)")
    }

    @Test(arguments: ["10.10.10.77", "fd10:10:10::77"])
    func `Connections that wait to be accepted go along, in their order, with what was said`(
        _ address: String
    ) throws {
        guard let lab = SurvivalLab.lab() else { return }
        defer { stop(lab) }
        let original = try start(lab, address)
        let counters = try ClientCounters(lab["c"])
        let clients = try lab["c"].spawn(lab.clientProgram("hoard"), "load", address, "7000", "200")
        try waitUntil("the clients", timeout: .seconds(20)) { clients.output.contains("start") }
        try lab.migrate(Self.unit, from: "a", to: "b")
        try lab.migrate(Self.unit, from: "b", to: "a")
        try lab.migrate(Self.unit, from: "a", to: "b")
        try expectArrived(Self.unit, original, lab["b"])
        try answer(clients, 200, original, lab["b"])
        try counters.expectNone()
    }

    /// The client's last segment of the handshake is lost again and again: it believes itself connected, the service
    /// knows nothing of it.
    @Test(arguments: ["10.10.10.78", "fd10:10:10::78"])
    func `A handshake that is not over goes along`(_ address: String) throws {
        guard let lab = SurvivalLab.lab() else { return }
        defer { stop(lab) }
        let original = try start(lab, address)
        let client = try lab["c"]
        let counters = try ClientCounters(client)
        try lose(client, "output", "tcp dport 7000 tcp flags & (syn | ack) == ack")
        defer { try? loseNothing(client) }
        let load = try client.spawn(lab.clientProgram("hoard"), "load", address, "7000", "1")
        try waitUntil("the client, which believes itself connected") { load.output.contains("start") }
        try #require(connections(lab["a"], "syn-recv", address) == 1)
        // It is not heard of between the moves either.
        for (source, destination) in [("a", "b"), ("b", "a")] {
            try lab.migrate(Self.unit, from: source, to: destination)
        }
        #expect(try connections(lab["a"], "established", address) == 0)
        try loseNothing(client)
        try waitUntil("the handshake's end", timeout: .seconds(20)) {
            try connections(lab["a"], "established", address) == 1
        }
        try answer(load, 1, original, lab["a"])
        try counters.expectNone()
    }

    /// What the host's kernel remembers of the handshake, which nobody has ended there, must not stand in the way.
    @Test(arguments: ["10.10.10.79", "fd10:10:10::79"])
    func `A client whose handshake ended elsewhere comes back with the service`(_ address: String) throws {
        guard let lab = SurvivalLab.lab() else { return }
        defer { stop(lab) }
        let original = try start(lab, address)
        let client = try lab["c"]
        let counters = try ClientCounters(client)
        try lose(client, "output", "tcp dport 7000 tcp flags & (syn | ack) == ack")
        defer { try? loseNothing(client) }
        let repeated = try lab["a"].counters()["TcpExt.TCPSynRetrans"] ?? 0
        let load = try client.spawn(lab.clientProgram("hoard"), "load", address, "7000", "1")
        try waitUntil("the client, which believes itself connected") { load.output.contains("start") }
        // With every SYN-ACK that it repeats, after 1, 2 and 4 s, the host waits twice as long until it looks again.
        try waitUntil("the third SYN-ACK again", timeout: .seconds(20)) {
            try lab["a"].counters()["TcpExt.TCPSynRetrans"] ?? 0 >= repeated + 3
        }
        try lab.migrate(Self.unit, from: "a", to: "b")
        try loseNothing(client)
        try waitUntil("the handshake's end", timeout: .seconds(20)) {
            try connections(lab["b"], "established", address) == 1
        }
        try #require(connections(lab["a"], "syn-recv", address) == 1, "the former host has forgotten the handshake")
        try lab.migrate(Self.unit, from: "b", to: "a")
        #expect(try connections(lab["a"], "established", address) == 1)
        try answer(load, 1, original, lab["a"])
        try counters.expectNone()
    }

    /// The client has not got our SYN-ACK, and its second SYN waits while the service moves: it is answered once.
    @Test(arguments: ["10.10.10.80", "fd10:10:10::80"])
    func `A client that repeats its SYN while the service moves is answered once`(_ address: String) throws {
        guard let lab = SurvivalLab.lab() else { return }
        defer { stop(lab) }
        let original = try start(lab, address)
        let client = try lab["c"]
        let counters = try ClientCounters(client)
        let wire = try WireCapture(client, "tcp port 7000")
        try lose(client, "input", "tcp sport 7000 tcp flags & (syn | ack) == syn | ack")
        defer { try? loseNothing(client) }
        let load = try client.spawn(lab.clientProgram("hoard"), "load", address, "7000", "1")
        try waitUntil("the handshake") { try connections(lab["a"], "syn-recv", address) == 1 }
        let move = try lab.holdMove(of: Self.unit, from: "a", to: "b", at: "source.frozen", on: "a") { _ in
            let before = try client.counters()["TcpExt.TCPTimeouts"] ?? 0
            try waitUntil("the next SYN", timeout: .seconds(20)) {
                try client.counters()["TcpExt.TCPTimeouts"] ?? 0 > before
            }
            try loseNothing(client)
        }
        #expect(try move.wait(timeout: .seconds(30)).succeeded, "\(move.errorOutput)")
        try waitUntil("the connection", timeout: .seconds(20)) {
            try connections(lab["b"], "established", address) == 1
        }
        try answer(load, 1, original, lab["b"])
        try wire.finish()
        let answers = try wire.rows("tcp.flags.syn == 1 && tcp.flags.ack == 1", "tcp.seq_raw").map { $0[0] }
        #expect(answers.count > 1 && Set(answers).count == 1, "SYN-ACKs \(answers)")
        try counters.expectNone(besides: "TcpExt.TCPTimeouts")
    }
}
