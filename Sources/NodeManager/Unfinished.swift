import BusContract
import BusService
import Kernel
import Migration

/// Moves that a former process of this daemon left unfinished.
extension NodeManager {
    /// Brings each to its end on a thread of its own; until then the unit counts as moving, so that no other move of
    /// it begins.
    func takeUpUnfinishedMoves() {
        for service in services() {
            let unit = service.unit
            guard let recovery = Recovery(host: host, unit: unit) else { continue }
            let isArrival = recovery.remains == .arrival || recovery.remains == .arrived
            state.withLock { state in
                _ = isArrival ? state.arriving.insert(unit) : state.departing.insert(unit)
            }
            do throws(KernelError) {
                try BlockingThread.start("recovery of \(unit)") { [self] in
                    recovery.run()
                    recovered(unit)
                }
            } catch {
                log.error("an unfinished move of \(unit) cannot be taken up: \(error)")
                recovered(unit)
            }
            refresh(unit)
        }
    }

    private func recovered(_ unit: String) {
        state.withLock { state in
            state.arriving.remove(unit)
            state.departing.remove(unit)
        }
        refresh(unit)
    }
}
