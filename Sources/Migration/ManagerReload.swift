import Kernel
import Logging
import Synchronization
import Units

/// Reloads of systemd that are owed: a drop-in of a move has gone from the disk, and systemd has not yet read that.
///
/// systemd refuses a reload for want of memory, or of 16 MiB in /run. The unit would keep the settings of the drop-in.
final class ManagerReload: Sendable {
    private struct State {
        /// What is still to be done once systemd has read its units again, by unit.
        var owed: [String: @Sendable () throws -> Void] = [:]
        var isRepeating = false
    }
    private let state = Mutex(State())
    private let log: Logger

    init(log: Logger) { self.log = log }

    /// Has systemd read its units again, then does `next`; if systemd will not, it is asked until it does, and `next`
    /// is done then, on another thread.
    ///
    /// - Throws: what `next` throws, when there was no need to repeat.
    func perform(for unit: String, then next: @escaping @Sendable () throws -> Void = {}) throws {
        do { try SourceMove.systemd().reload() } catch {
            log.error("systemd does not read \(unit) again, it is asked until it does: \(error)")
            return try repeatLater(unit, next)
        }
        try next()
    }

    private func repeatLater(_ unit: String, _ next: @escaping @Sendable () throws -> Void) throws {
        let isFirst = state.withLock { state in
            state.owed[unit] = next
            defer { state.isRepeating = true }
            return !state.isRepeating
        }
        guard isFirst else { return }
        do { try BlockingThread.start("reload") { [self] in repeatUntilDone() } } catch {
            state.withLock { $0.isRepeating = false }
            throw error
        }
    }

    private func repeatUntilDone() {
        var pause: Int32 = 500
        while true {
            try? Poll.pause(milliseconds: pause)
            pause = min(pause * 2, 30_000)
            let before = state.withLock { Set($0.owed.keys) }
            guard (try? SourceMove.systemd().reload()) != nil else { continue }
            // What came while systemd was reading may not have been read.
            let (done, isOver) = state.withLock { state in
                let done = state.owed.filter { before.contains($0.key) }
                for unit in done.keys { state.owed[unit] = nil }
                if state.owed.isEmpty { state.isRepeating = false }
                return (done, state.owed.isEmpty)
            }
            for (unit, next) in done.sorted(by: { $0.key < $1.key }) {
                log.notice("systemd has read \(unit) again")
                do { try next() } catch { log.error("after systemd has read \(unit) again: \(error)") }
            }
            if isOver { return }
        }
    }
}
