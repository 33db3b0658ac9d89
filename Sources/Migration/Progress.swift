import Synchronization

/// What a move tells while it goes on; the bus shows it.
public struct MoveProgress: Sendable {
    public var phase: Phase = .checking
    public var bytesTotal: UInt64 = 0
    public var bytesSent: UInt64 = 0
    /// Microseconds from the freeze at the source to the thaw at the destination, or on the source after a roll-back.
    public var frozenMicroseconds: UInt64 = 0
    /// The parts of the frozen time, in order: name and microseconds.
    public var parts: [(name: String, microseconds: UInt64)] = []
    public init() {}
}

/// What may be asked of a move.
public struct MoveOptions: Sendable {
    /// Connections that are not on a virtual address may be lost.
    public var allowsLoss = false
    public init() {}
}

/// The switch by which an administrator calls a move off; it counts until the commit.
public final class Cancellation: Sendable {
    private let state = Mutex<(requested: Bool, closed: Bool)>((false, false))
    public init() {}

    /// False when the move is past the point where it can be called off.
    public func request() -> Bool {
        state.withLock { state in
            if !state.closed { state.requested = true }
            return state.requested
        }
    }

    func check() throws(MoveError) {
        if state.withLock({ $0.requested }) { throw MoveError(.cancelled, "cancelled") }
    }

    /// Closes the window: from here on a request is too late.
    func close() throws(MoveError) {
        let requested = state.withLock { state in
            state.closed = !state.requested
            return state.requested
        }
        if requested { throw MoveError(.cancelled, "cancelled") }
    }
}
