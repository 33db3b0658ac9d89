import Glibc
import Kernel
import KernelCapture

/// Connections of a frozen service that have received segments out of order. The kernel shows these to nobody, so they
/// cannot travel, and the peer, who was told that they have come, would find them gone: it would sit out a timeout and
/// repeat all that is on its way. What is missing before them therefore still passes, for a round trip or two, while
/// everything newer waits.
enum OpenGaps {
    /// How long a connection may bring nothing, and how long all may take, ns. A round trip over a network of this size
    /// takes some milliseconds, and a peer's repetition may get lost as well; but a peer that is gone for good must not
    /// keep the others waiting.
    static let patience: Int64 = 100_000_000, limit: Int64 = 300_000_000

    /// Awaits that none of the connections at these addresses (16 bytes each) lacks anything, in vain where nothing
    /// comes.
    /// - Returns: how many there were, and how many still lack something.
    static func awaitFilled(
        at addresses: [[UInt8]], module: CaptureModule
    ) throws(CaptureModuleError) -> (found: Int, left: Int) {
        // By both ends.
        var progress: [[SocketName]: (next: UInt32, since: Int64)] = [:]
        let start = Clock.monotonic
        while true {
            let open = try module.gaps().filter { addresses.contains($0.local.address) }
            let now = Clock.monotonic
            for gap in open where progress[[gap.local, gap.remote]]?.next != gap.next {
                progress[[gap.local, gap.remote]] = (gap.next, now)
            }
            let isHopeless = open.allSatisfy { now - (progress[[$0.local, $0.remote]]?.since ?? now) > patience }
            if open.isEmpty || isHopeless || now - start > limit { return (progress.count, open.count) }
            usleep(500)
        }
    }
}
