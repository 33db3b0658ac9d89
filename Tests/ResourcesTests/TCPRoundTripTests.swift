import CKernel
import Glibc
import Kernel
import ProcessImage
import Testing

@testable import Resources

@Suite(.serialized) struct TCPRoundTripTests {
    /// The destination goes on with the source's measure of the round trip, and without a word of the client's.
    @Test(arguments: [AF_INET, AF_INET6], [TCP.established, TCP.closeWait])
    func carriesRoundTrip(family: Int32, wanted: UInt8) throws {
        let bench = try SocketBench()
        var connection = try connect(bench, family)
        let server = connection.server.raw
        if wanted == TCP.closeWait { try Socket.shutdown(connection.client, 1) }
        try wait("state \(wanted)") {
            try TCP.Information(of: try ProcessDescriptors.take(pid: getpid(), number: server)).state == wanted
        }
        try bench.isolateSource()
        let restore = OwnRestore()
        try take(&connection, bench, to: restore) { record in
            #expect(record.roundTrip > 0)
            record.roundTrip = 80_000
        }
        try bench.loseInput("c")
        try bench.inside("b") { try restore.restoreAll() }
        try bench.inside("b") { try restore.activateAll() }
        let moved = restore.socket(0)
        try wait("the acknowledgement") { try Socket.unacknowledged(moved) == 0 }
        let roundTrip = try TCP.Information(of: moved).roundTrip
        #expect((80_000...90_000).contains(roundTrip))
        _ = consume moved
    }
}
