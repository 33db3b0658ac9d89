import CKernel
import Glibc
import Kernel
import KernelCapture
import ProcessImage
import Testing

@testable import Resources

@Suite(.serialized) struct TCPCongestionTests {
    /// The destination sends as much at once as the source would have, under the same congestion control.
    @Test(arguments: [AF_INET, AF_INET6], ["cubic", "reno"])
    func carriesTheWindow(family: Int32, control: String) throws {
        let bench = try SocketBench()
        var connection = try connect(bench, family)
        try Socket.setOption(connection.server, 6, 13, Array(control.utf8))  // TCP_CONGESTION
        try bench.isolateSource()
        let restore = OwnRestore()
        restore.congestion = try CongestionModule.load()
        let fresh = try TCP.Information(of: connection.server).congestion
        try take(&connection, bench, to: restore) { record in
            #expect(record.congestionWindow == fresh.segments && record.slowStartThreshold == fresh.threshold)
            record.congestionWindow = 250
            record.slowStartThreshold = 180
        }
        try bench.inside("b") { try restore.restoreAll() }
        try bench.inside("b") { try restore.activateAll() }
        let moved = restore.socket(0)
        let found = try TCP.Information(of: moved).congestion
        #expect(found == CongestionWindow(segments: 250, threshold: 180))
        let name = try Socket.option(moved, 6, 13, limit: 16).prefix { $0 != 0 }
        #expect(String(decoding: name, as: UTF8.self) == control)
        _ = consume moved
    }

    /// Two daemons of one kernel do not stand in each other's way, and what they registered goes with them.
    @Test func registersForAsLongAsItLives() throws {
        func registered() throws -> Int {
            try Files.readText("/proc/sys/net/ipv4/tcp_available_congestion_control").split(separator: " ")
                .count { $0.hasPrefix("mobility_") }
        }
        let before = try registered()
        do {
            let (one, two) = (try CongestionModule.load(), try CongestionModule.load())
            #expect(try registered() == before + 2)
            withExtendedLifetime((one, two)) {}
        }
        let deadline = Clock.monotonic + 5_000_000_000
        while try registered() > before, Clock.monotonic < deadline { sched_yield() }
        #expect(try registered() == before)
    }
}
