import Kernel
import Units

extension Host {
    /// Starts a unit once that ended in mid-move, when the drop-in of the move kept systemd from doing so by its
    /// `Restart=`. For a unit that is this host's; whoever asked for its stop gets that.
    func restartIfOwed(_ unit: String) {
        let first = try? SourceMove.systemd().unitProperties(unit)
        guard let first else { return log.error("\(unit) is not started again if it has ended: systemd does not tell") }
        do throws(KernelError) {
            try BlockingThread.start("restart of \(unit)") { [self] in
                do { try awaitAndRestart(unit, first) } catch { log.error("starting \(unit) again: \(error)") }
            }
        } catch {
            log.error("\(unit) is not started again if it has ended: \(error)")
        }
    }

    private func awaitAndRestart(_ unit: String, _ first: UnitStatus) throws {
        let systemd = try SourceMove.systemd()
        let deadline = Deadline.after(milliseconds: 10_000)
        try systemd.keepLoaded(unit)
        var status = first
        while status.activeState == "deactivating", !deadline.hasPassed {
            try Poll.pause(milliseconds: 20)
            status = try systemd.unitProperties(unit)
        }
        guard isOwed(unit, status) else {
            if ["inactive", "failed"].contains(status.activeState) {
                log.notice("\(unit) ended while it moved (\(status.result)) and is not started again")
            }
            return
        }
        try Poll.pause(milliseconds: Int32(min(status.restart.pauseMicroseconds / 1000, 600_000)))
        // Somebody may have started or moved it meanwhile.
        let now = try systemd.unitProperties(unit)
        guard [status.invocationID, ""].contains(now.invocationID), now.job == nil,
            ["inactive", "failed"].contains(now.activeState), isOwed(unit, status)
        else { return }
        log.notice("\(unit) ended while it moved (\(now.result)); it is started again, as its Restart= asks for")
        _ = try systemd.queueStart(unit, mode: "fail")
    }

    private func isOwed(_ unit: String, _ status: UnitStatus) -> Bool {
        switch ownership.state(of: unit) {
        case .here, .arrived: break
        default: return false
        }
        // A unit that is stopped leaves its state before its main process ends.
        return ["inactive", "failed"].contains(status.activeState) && status.job == nil && status.endedByItself
            && status.restart.restarts(result: status.result, code: status.mainCode, status: status.mainStatus)
    }
}
