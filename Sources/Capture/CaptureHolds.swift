import Glibc
import Kernel
import Synchronization

/// Descriptors that stay open in this daemon until the move is decided, with what undoes the capture.
public final class CaptureHolds: Sendable {
    private struct Held {
        let raw: Int32
        let undo: @Sendable (Int32) -> Void
    }

    private let held = Mutex<[Held]>([])

    public init() {}

    deinit { release() }

    func add(_ descriptor: consuming FileDescriptor, undo: @escaping @Sendable (Int32) -> Void) {
        let raw = descriptor.release()
        held.withLock { $0.append(Held(raw: raw, undo: undo)) }
    }

    /// The move is off: undoes every capture, the last one first, and closes.
    public func rollBack() {
        for entry in take().reversed() {
            entry.undo(entry.raw)
            close(entry.raw)
        }
    }

    /// The move has been committed and the source's processes are gone: closes without undoing.
    public func release() {
        for entry in take() { close(entry.raw) }
    }

    private func take() -> [Held] {
        held.withLock { held in
            defer { held = [] }
            return held
        }
    }
}
