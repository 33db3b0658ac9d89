import Glibc
import Kernel
import Lab
import Testing

/// A client of another subnet, behind a router.
@Suite(.serialized, .survivalLab("route", clients: ["c", "r"]))
struct SurvivalRouteTests {
    private static let unit = "bulk.service"
    private static let hardware = ["a": "02:10:10:10:00:02", "b": "02:10:10:10:00:03"]

    private func startBulk(_ lab: Lab, _ address: String, mtu: Int = 1500) throws {
        if try !lab["c"].run("ip", "link").output.contains("eth1") { try lab.place("c", behindRouter: "r") }
        for member in ["c", "r"] { try lab[member].run("ip", "link", "set", "eth1", "mtu", "\(mtu)") }
        let program = try lab.compile("bulk")
        try lab.installService(Self.unit, "[Service]\nExecStart=\(program) serve \(address) 7000\n")
        try lab.annotate(unit: Self.unit, address: address)
        try lab["a"].start(Self.unit)
    }

    private func stop(_ lab: Lab) {
        // What the client's kernel still has to send would count as lost in the next test.
        try? waitUntil("the client's last bytes") {
            try lab["c"].run("ss", "-Htn", "state", "connected", "exclude", "time-wait").output.isEmpty
        }
        for host in ["a", "b"] { _ = try? lab[host].run("systemctl", "stop", Self.unit, allowFailure: true) }
    }

    /// The client's transfer, once it is well under way.
    private func transfer(_ lab: Lab, _ direction: String, _ address: String) throws -> LabProcess {
        let load = try lab["c"].spawn(lab.clientProgram("bulk"), direction, address, "7000")
        try awaitMore(lab, load)
        return load
    }

    /// Waits for a hundred segments more at the client.
    private func awaitMore(_ lab: Lab, _ load: LabProcess) throws {
        func segments() throws -> Int { try lab["c"].counters()["Tcp.InSegs"] ?? 0 }
        let before = try segments()
        try waitUntil("more of the transfer") {
            guard load.isRunning else { throw LabError("it has ended: \(load.output)\(load.errorOutput)") }
            return try segments() > before + 100
        }
    }

    private func finish(_ load: LabProcess) throws {
        try load.signal(SIGTERM)
        #expect(try load.wait(timeout: .seconds(10)).succeeded, "\(load.output)\(load.errorOutput)")
    }

    /// Its entry says that the address is at host a, and passes over every announcement.
    private func fixNeighbour(_ lab: Lab, _ address: String) throws {
        try lab["r"].run(
            "ip", "neigh", "replace", address, "lladdr", Self.hardware["a"] ?? "", "dev", "eth0", "nud", "permanent")
    }

    @Test(arguments: ["10.10.10.111", "fd10:10:10::111"])
    func `A transfer through a router with a stale neighbour entry goes on`(_ address: String) throws {
        guard let lab = SurvivalLab.lab() else { return }
        defer { stop(lab) }
        try startBulk(lab, address)
        try fixNeighbour(lab, address)
        for direction in ["down", "up"] {
            let counters = try ClientCounters(lab["c"])
            let load = try transfer(lab, direction, address)
            defer { load.kill() }
            try lab.migrate(Self.unit, from: "a", to: "b")
            let moved = Clock.monotonic
            try waitUntil("five seconds") { Clock.monotonic - moved > 5_000_000_000 }
            try awaitMore(lab, load)
            try lab.migrate(Self.unit, from: "b", to: "a")
            try awaitMore(lab, load)
            // Before its end: what it has not read then is answered with a reset.
            try counters.expectNone()
            try finish(load)
        }
    }

    /// What the source has learnt of the path is known at the destination before the first segment leaves.
    @Test(arguments: ["10.10.10.112", "fd10:10:10::112"])
    func `The path's MTU goes along`(_ address: String) throws {
        guard let lab = SurvivalLab.lab() else { return }
        defer { stop(lab) }
        // The client believes in a larger one than its router's cable has: the sender learns it from ICMP only.
        try startBulk(lab, address)
        try lab["r"].run("ip", "link", "set", "eth1", "mtu", "1400")
        let counters = try ClientCounters(lab["c"])
        let load = try transfer(lab, "down", address)
        defer { load.kill() }
        let wire = try WireCapture(lab["r"], "icmp or icmp6")
        for (source, destination) in [("a", "b"), ("b", "a"), ("a", "b")] {
            try lab.migrate(Self.unit, from: source, to: destination)
            try awaitMore(lab, load)
        }
        try wire.finish()
        let tooBig = "icmp.code == 4 || icmpv6.type == 2"
        let told = try wire.rows(tooBig, "frame.time_relative", "eth.dst", "ip.len", "ipv6.plen", "tcp.seq_raw")
        #expect(told.isEmpty, "routers have to tell it anew: \(told)")
        try counters.expectNone()
        try finish(load)
    }

    @Test(arguments: ["10.10.10.113", "fd10:10:10::113"])
    func `A path's MTU that shrinks in mid-move is learnt, though the router tells the former host`(
        _ address: String
    ) throws {
        guard let lab = SurvivalLab.lab() else { return }
        defer { stop(lab) }
        try startBulk(lab, address)
        try fixNeighbour(lab, address)
        let counters = try ClientCounters(lab["c"])
        let load = try transfer(lab, "down", address)
        defer { load.kill() }
        let wire = try WireCapture(lab["r"], "icmp or icmp6")
        let move = try lab.holdMove(of: Self.unit, from: "a", to: "b", at: "source.frozen", on: "a") { _ in
            try lab["r"].run("ip", "link", "set", "eth1", "mtu", "1300")
        }
        #expect(try move.wait().succeeded, "\(move.errorOutput)")
        try awaitMore(lab, load)
        try wire.finish()
        let tooBig = "icmp.code == 4 || icmpv6.type == 2"
        let told = try wire.rows(tooBig, "eth.dst")
        #expect(!told.isEmpty && told.allSatisfy { $0 == [Self.hardware["a"]] }, "\(told)")
        try counters.expectNone()
        try finish(load)
    }
}
