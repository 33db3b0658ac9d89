import BusContract
import BusService
import Kernel
import Migration

/// Moves that a former process of this daemon left unfinished.
extension NodeManager {
    /// Brings each to its end on a thread of its own; until then the unit counts as moving, so that no other move of
    /// it begins.
    func takeUpUnfinishedMoves() {
        host.completeDecisions()
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
        // While it counts as moving: another move must not find the watch half begun.
        resumeOwnership(of: unit)
        state.withLock { state in
            state.arriving.remove(unit)
            state.departing.remove(unit)
        }
        releaseIfEnded(unit)
        confirmArrival(of: unit)
        refresh(unit)
    }

    private func confirmArrival(of unit: String) {
        if case .arrived = host.ownership.state(of: unit) { host.confirmInBackground(unit) }
    }

    /// Speaks again for the addresses of the units that run here; those with an unfinished move wait for its end.
    ///
    /// Before the bus name is ours: no claim, release or move can come between the look at a unit and its watch.
    func resumeOwnership() {
        let moving = state.withLock { $0.arriving.union($0.departing) }
        for service in services() where !moving.contains(service.unit) {
            if service.connectHookAttached { resumeOwnership(of: service.unit) }
            confirmArrival(of: service.unit)
        }
    }

    private func resumeOwnership(of unit: String) {
        do throws(MoveError) { try AddressClaim(host: host, unit: unit).resume() } catch {
            log.error("the addresses of \(unit) are not watched over: \(error)", metadata: ["unit": "\(unit)"])
        }
    }

    /// A stop that came while the unit moved left its addresses to the move; now nobody else takes them off.
    func releaseIfEnded(_ unit: String) {
        do throws(MoveError) { try AddressClaim(host: host, unit: unit).releaseIfEnded() } catch {
            log.error("releasing the addresses of \(unit): \(error)", metadata: ["unit": "\(unit)"])
        }
    }
}
