import Glibc
import Lab
import Testing

/// Moves of services whose clients are behind a cable that loses frames.
@Suite(.serialized, .survivalLab("loss"))
struct SurvivalLossTests {
    private static let unit = "bulk.service"

    /// At any moment the service's host has segments behind lost ones, which the client knows to have arrived.
    @Test func `An upload finds nothing gone that had arrived`() throws {
        guard let lab = SurvivalLab.lab() else { return }
        let client = try lab["c"]
        let program = try lab.compile("bulk")
        let cable = try lab.degradeCable(of: "c", delay: 20, loss: 10)
        defer { cable.kill() }
        for address in ["10.10.10.81", "fd10:10:10::81"] {
            try lab.installService(Self.unit, "[Service]\nExecStart=\(program) serve \(address) 7000\n")
            try lab.annotate(unit: Self.unit, address: address)
            try lab["a"].run("systemctl", "restart", Self.unit)
            defer { _ = try? lab["a"].run("systemctl", "stop", Self.unit, allowFailure: true) }
            let before = try client.counters()
            func grown(_ name: String) throws -> Int {
                try client.counters()[name, default: 0] - before[name, default: 0]
            }
            let load = try client.spawn(lab.clientProgram("bulk"), "up", address, "7000")
            defer { load.kill() }
            for (source, destination) in [("a", "b"), ("b", "a"), ("a", "b"), ("b", "a")] {
                let sent = try grown("Tcp.OutSegs")
                try waitUntil("five thousand segments more", timeout: .seconds(20)) {
                    guard load.isRunning else { throw LabError("it has ended: \(load.output)\(load.errorOutput)") }
                    return try grown("Tcp.OutSegs") > sent + 5_000
                }
                try lab.migrate(Self.unit, from: source, to: destination)
            }
            let end = try load.loadReport("end")
            #expect(end["failed"] == 0 && end["resets"] == 0, "\(load.output.suffix(300))")
            // tcp_check_sack_reneging in net/ipv4/tcp_input.c: once a move if nothing were awaited. Now and then a
            // repeated segment is lost as well, and nothing newer comes by which its sender could see that.
            #expect(try grown("TcpExt.TCPSACKReneging") <= 1, "\(address)")
        }
    }
}
