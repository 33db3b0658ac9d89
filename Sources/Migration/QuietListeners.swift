import Addressing
import Glibc
import Kernel
import KernelCapture
import Resources
import Units

/// Before the freeze: listeners get the time to finish with the clients that have come so far. Most are accepted in
/// that time, and fewer connections have to be made anew.
extension SourceMove {
    /// How long a service may take to accept connections that cannot be taken out of their queue, ms; nothing is held
    /// yet.
    private static let acceptLimit: Int64 = 10_000
    /// How long the last ones of these may take once new connections are held, ms.
    private static let handshakeLimit: Int64 = 300
    /// How long all others are waited for then, ms: a round trip, and a turn of the service's loop.
    private static let grace: Int64 = 30

    /// A service that does not accept what cannot be carried is not frozen.
    func awaitAccepting(_ view: UnitView) throws(MoveError) {
        let waiting = try awaitQuietListeners(view, within: Self.acceptLimit)
        guard waiting == 0 else {
            throw MoveError(
                .step,
                "\(waiting) connections were not accepted within \(Self.acceptLimit / 1000) s; try again when \(unit)"
                    + " has workers for them (`ss -lntx` on the source shows them as Recv-Q)")
        }
    }

    /// The same once new connections wait in the hold queue: those that came in between. Another try may do.
    func awaitHandshakes(_ view: UnitView) throws(MoveError) {
        let waiting = try awaitQuietListeners(view, within: Self.handshakeLimit)
        guard waiting == 0 else {
            throw MoveError(.changed, "\(waiting) connections are still in the handshake or not accepted")
        }
        _ = try awaitQuietListeners(view, within: Self.grace, carried: true)
    }

    /// How many connections are half-open or unaccepted: 0 as soon as it is so, another number after that time.
    /// With `carried` those count that go along, else the others.
    private func awaitQuietListeners(
        _ view: UnitView, within milliseconds: Int64, carried: Bool = false
    ) throws(MoveError) -> Int {
        let deadline = Deadline.after(milliseconds: milliseconds)
        let cgroup = try view.cgroup()
        let areTaken = HoldQueue.takesHandshakes
        while true {
            let pids = try Self.step("listing processes") { try cgroup.processes() }
            let waiting = try Self.step("reading sockets") {
                Self.waiting(try host.capture.files(pids: pids)) { (areTaken && $0.isPlainTCP) == carried }
            }
            if waiting == 0 || deadline.hasPassed { return waiting }
            try cancellation.check()
            usleep(500)
        }
    }

    /// Connections in the handshake or not yet accepted; a listener that several processes share counts once.
    private static func waiting(_ files: [FileRecord], of kind: (SocketRecord) -> Bool) -> Int {
        var counts: [UInt64: Int] = [:]
        for file in files {
            guard let socket = file.socket, kind(socket) else { continue }
            counts[file.description] = Int(socket.acceptQueue) + Int(socket.halfOpen)
        }
        return counts.values.reduce(0, +)
    }
}

extension SocketRecord {
    /// The kernel makes no subflows of MPTCP for connections that began elsewhere.
    fileprivate var isPlainTCP: Bool { [2, 10].contains(family) && !isMPTCP }  // AF_INET, AF_INET6
}
