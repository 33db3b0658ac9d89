import Addressing
import Capture
import Glibc
import Kernel
import Units

/// From the word "commit" on: only the destination may run the service. What is left here is to hand over the
/// packets that wait, to learn the answer, and to clear away.
extension SourceMove {
    /// Says commit and stays until the destination has answered. A lost wire is asked about until it heals: this
    /// side neither runs the service nor gives it up without knowing.
    func commit(_ frozen: FrozenService, _ lanes: [HoldLane], _ conversation: Conversation) throws(MoveError) {
        enter(.committing)
        host.doubts.begin(unit)
        defer { host.doubts.end(unit) }
        try Self.step("recording the commit") {
            do throws(KernelError) {
                try host.ownership.record(.inDoubt(move: move, destination: destination), for: unit)
            } catch {
                // The name may be there though its directory could not be synced; nobody has been told to commit.
                try host.ownership.record(.here, for: unit)
                throw error
            }
        }
        Waypoint.sourceInDoubt.pass()
        do throws(MoveError) {
            try giveUpAddresses(lanes)
            try conversation.send(.commit)
            Waypoint.sourceCommitSent.pass()
            // Older than what was held.
            for frames in packets { try conversation.send(.frames, frames) }
            try forward(lanes, conversation)
            for _ in lanes { try conversation.send(.framesEnd) }
            try awaitCommitted(lanes, conversation)
            Waypoint.sourceCommitted.pass()
            fallSilent(lanes)
        } catch {
            fallSilent(lanes)
            // A commit that is still under way must not arrive after the answer to the question.
            conversation.channel.abort()
            log.warning("the wire broke while committing; asking node \(destination): \(error)")
            guard host.askOutcome(of: move, unit: unit, at: destination) else {
                try Self.step("recording the roll-back") { try host.ownership.record(.here, for: unit) }
                throw error
            }
        }
        lanes.forEach { $0.forgetSent() }
        timeline.mark("committed")
        progress.frozenMicroseconds = UInt64((timeline.span(from: Phase.frozen.rawValue, to: "committed") ?? 0) / 1000)
        progress.parts = parts()
    }

    /// What the service sends from the destination to other processes of this host would be martians, did the host
    /// still have the address. The hold queue needs no address to hold and silence.
    private func giveUpAddresses(_ lanes: [HoldLane]) throws(MoveError) {
        try Self.step("removing the addresses of \(unit)") { try host.addresses.remove(lanes.places) }
    }

    /// The destination has announced itself, or may have where this host did not hear it.
    private func fallSilent(_ lanes: [HoldLane]) {
        for lane in lanes { attempt("falling silent about \(lane.address)") { try lane.set([.hold, .silent]) } }
    }

    private func parts() -> [(name: String, microseconds: UInt64)] {
        let marks = timeline.marks.drop { $0.name != Phase.frozen.rawValue }
        return zip(marks, marks.dropFirst()).map { mark, next in
            (name: "until \(next.name)", microseconds: UInt64((next.at - mark.at) / 1000))
        }
    }

    private func forward(_ lanes: [HoldLane], _ conversation: Conversation) throws(MoveError) {
        for lane in lanes {
            while let frames = try Self.step("taking held packets", { try lane.take(keepingCopies: true) }) {
                try conversation.send(.frames, frames)
            }
        }
    }

    private func awaitCommitted(_ lanes: [HoldLane], _ conversation: Conversation) throws(MoveError) {
        let deadline = Deadline.after(milliseconds: 10_000)
        while true {
            if let message = try conversation.next(before: .after(milliseconds: 2)) {
                try Conversation.raiseFailure(message, from: destination)
                if message.type == MessageType.committed.rawValue { return }
            }
            if deadline.hasPassed { throw MoveError(.channel, "no answer to the commit") }
            if host.doubts.resolution(of: unit) != nil {
                throw MoveError(.channel, "an administrator says that node \(destination) is off")
            }
            try forward(lanes, conversation)
        }
    }

    /// The service lives at the destination. Nothing here can fail the move any more; what goes wrong is logged.
    func finish(
        _ view: UnitView, _ frozen: FrozenService, _ lanes: [HoldLane], _ conversation: Conversation,
        _ systemd: SystemdClient
    ) {
        hasCommitted = true
        if recordDeparture() {
            Waypoint.sourceDeparted.pass()
            attempt("telling node \(destination) of the departure") { try conversation.send(.departed) }
        }
        host.watches.end(unit)
        host.stopAnnouncing(lanes.map(\.address))
        let forwarding = Forwarding(unit: unit, lanes: lanes, conversation: conversation, host: host, log: log)
        forwarding.start()
        attempt("removing the shared memory of \(unit)") {
            for pid in try frozen.moving.processes() { try SharedMemoryUse.removeFiles(of: pid) }
        }
        attempt("ending the processes of \(unit)") { try frozen.end() }
        Waypoint.sourceEnded.pass()
        // systemd removes it only when the unit names it, which the departing drop-in prevents.
        if !view.status.pidFile.isEmpty { attempt("removing the PID file") { try removeIfThere(view.status.pidFile) } }
        for path in pidFiles { attempt("removing \(path)") { try removeIfThere(path) } }
        attempt("detaching the connect hook") { try host.hook.detach(unit: unit) }
        attempt("awaiting the end of \(unit)") {
            try systemd.awaitState(unit, ["inactive", "failed"], milliseconds: 10_000)
        }
        attempt("removing the departure drop-in") {
            try RuntimeDropIn(unit, .departing).remove()
            try host.managerReload.perform(for: unit)
        }
        Waypoint.sourceCleared.pass()
        enter(.done)
        log.info("\(unit) runs on \(destination): \(timeline.report)")
    }

    /// Without it the unit stays in doubt here until the daemon starts again; a shortage of a moment must not decide
    /// that.
    private func recordDeparture() -> Bool {
        for _ in 1...Self.attempts {
            do throws(KernelError) {
                try host.ownership.record(.departed(to: destination), for: unit)
                return true
            } catch {
                log.error("recording the departure: \(error)")
            }
        }
        return false
    }

    private func removeIfThere(_ path: String) throws(KernelError) {
        do throws(KernelError) { try Files.remove(path) } catch  where error.code == .noEntry {}
    }

    private func attempt(_ what: String, _ body: () throws -> Void) {
        do { try body() } catch { log.error("\(what): \(error)") }
    }
}
