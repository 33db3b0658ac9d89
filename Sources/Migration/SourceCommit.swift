import Addressing
import Capture
import Glibc
import Kernel
import Units

/// From the word "commit" on: only the destination may run the service. What is left here is to hand over the
/// packets that wait, to learn the answer, and to clear away.
extension SourceMove {
    /// How long frames that still reach this host are sent on after the move, and how long a pause ends it, ms.
    static let forwarding: Int64 = 3000

    /// Says commit and stays until the destination has answered. A lost wire is asked about until it heals: this
    /// side neither runs the service nor gives it up without knowing.
    func commit(_ frozen: FrozenService, _ lanes: [HoldLane], _ conversation: Conversation) throws(MoveError) {
        enter(.committing)
        try Self.step("recording the commit") {
            do throws(KernelError) {
                try host.ownership.record(.inDoubt(move: move, destination: destination), for: unit)
            } catch {
                // The name may be there though its directory could not be synced; nobody has been told to commit.
                try host.ownership.record(.here, for: unit)
                throw error
            }
        }
        do throws(MoveError) {
            try conversation.send(.commit)
            try forward(lanes, conversation)
            for _ in lanes { try conversation.send(.framesEnd) }
            try awaitCommitted(lanes, conversation)
        } catch {
            log.warning("the wire broke while committing; asking node \(destination): \(error)")
            guard Self.askOutcome(of: move, at: destination, host: host) else {
                try Self.step("recording the roll-back") { try host.ownership.record(.here, for: unit) }
                throw error
            }
        }
        timeline.mark("committed")
        progress.frozenMicroseconds = UInt64((timeline.span(from: Phase.frozen.rawValue, to: "committed") ?? 0) / 1000)
        progress.parts = parts()
    }

    private func parts() -> [(name: String, microseconds: UInt64)] {
        let marks = timeline.marks.drop { $0.name != Phase.frozen.rawValue }
        return zip(marks, marks.dropFirst()).map { mark, next in
            (name: "until \(next.name)", microseconds: UInt64((next.at - mark.at) / 1000))
        }
    }

    private func forward(_ lanes: [HoldLane], _ conversation: Conversation) throws(MoveError) {
        for lane in lanes {
            while let frames = try Self.step("taking held packets", { try lane.take() }) {
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
            try forward(lanes, conversation)
        }
    }

    /// Asks until there is an answer: did the destination commit?
    static func askOutcome(of move: String, at destination: String, host: Host) -> Bool {
        while true {
            if let conversation = try? host.connect(to: destination, within: 2000) {
                defer { conversation.channel.close() }
                if (try? conversation.send(.query, Outcome(move: move, committed: false))) != nil,
                    let outcome = try? conversation.expect(.outcome, as: Outcome.self, within: 5000),
                    outcome.move == move
                {
                    return outcome.committed
                }
            }
            usleep(300_000)
        }
    }

    /// The service lives at the destination. Nothing here can fail the move any more; what goes wrong is logged.
    func finish(
        _ view: UnitView, _ frozen: FrozenService, _ lanes: [HoldLane], _ conversation: Conversation,
        _ systemd: SystemdClient
    ) {
        attempt("recording the departure") {
            try host.ownership.record(.departed(to: destination), for: unit)
        }
        attempt("removing the shared memory of \(unit)") {
            for pid in try frozen.moving.processes() { try SharedMemoryUse.removeFiles(of: pid) }
        }
        attempt("ending the processes of \(unit)") { try frozen.end() }
        enter(.done)
        log.info("\(unit) runs on \(destination): \(timeline.report)")
        forwardLateFrames(lanes, conversation)
        host.watches.end(unit)
        for lane in lanes {
            if let counters = try? lane.queue.counters(lane.address) {
                log.info("\(lane.address): \(counters.heldPackets) packets held, \(counters.silenced) silenced")
            }
            host.stopAnnouncing(lane.address)
            attempt("removing \(lane.address)") { try host.addresses.remove(lane.address, from: lane.interface) }
            attempt("ending the hold of \(lane.address)") { try lane.close() }
        }
        // systemd removes it only when the unit names it, which the departing drop-in prevents.
        if !view.status.pidFile.isEmpty { attempt("removing the PID file") { try removeIfThere(view.status.pidFile) } }
        for path in pidFiles { attempt("removing \(path)") { try removeIfThere(path) } }
        attempt("detaching the connect hook") { try host.hook.detach(unit: unit) }
        attempt("awaiting the end of \(unit)") {
            try systemd.awaitState(unit, ["inactive", "failed"], milliseconds: 10_000)
        }
        attempt("removing the departure drop-in") {
            try RuntimeDropIn(unit, .departing).remove()
            try systemd.reload()
        }
    }

    /// Clients and routers with an old neighbour entry still send here for a moment.
    private func forwardLateFrames(_ lanes: [HoldLane], _ conversation: Conversation) {
        let end = Deadline.after(milliseconds: Self.forwarding)
        while !end.hasPassed {
            do throws(MoveError) { try forward(lanes, conversation) } catch {
                log.notice("forwarding ends early: \(error)")
                return
            }
            usleep(2000)
        }
        attempt("ending the forwarding") { for _ in lanes { try conversation.send(.framesEnd) } }
    }

    private func removeIfThere(_ path: String) throws(KernelError) {
        do throws(KernelError) { try Files.remove(path) } catch  where error.code == .noEntry {}
    }

    private func attempt(_ what: String, _ body: () throws -> Void) {
        do { try body() } catch { log.error("\(what): \(error)") }
    }
}
