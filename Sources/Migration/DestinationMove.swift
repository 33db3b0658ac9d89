import Addressing
import Capture
import Glibc
import Kernel
import Logging
import Peering
import ProcessImage
import Resources
import Restore
import Units

/// The destination's side of the moves that come over one channel. Runs on the channel's thread.
public final class DestinationMove {
    let host: Host
    let conversation: Conversation
    let arriving: @Sendable (String, Phase) -> Void
    var log: Logger
    var undo = UndoStack()

    /// `arriving` is told of each phase that a unit enters here.
    public init(host: Host, channel: Channel, arriving: @escaping @Sendable (String, Phase) -> Void) {
        self.host = host
        conversation = Conversation(channel: channel)
        self.arriving = arriving
        log = host.log
        log[metadataKey: "peer"] = "\(channel.remoteName)"
    }

    /// Serves the channel until its end. Whatever was begun and not committed is undone.
    public func serve() {
        do throws(MoveError) {
            guard let first = try conversation.next(before: .after(milliseconds: 10_000)) else { return }
            switch MessageType(rawValue: first.type) {
            case .offer: try receive(Conversation.decode(Offer.self, from: first))
            case .query: try answerQuery(Conversation.decode(Outcome.self, from: first))
            case .askRunning: try answerRunning(Conversation.decode(RunningAnswer.self, from: first))
            case .askDeparted: try answerDeparted(Conversation.decode(DepartureAnswer.self, from: first))
            default: throw MoveError(.channel, "message type \(first.type) begins nothing")
            }
        } catch {
            log.error("\(error)")
        }
        conversation.channel.close()
    }

    /// A source that lost the wire asks how its move ended. Asking decides: what was not committed by now never is.
    private func answerQuery(_ question: Outcome) throws(MoveError) {
        let committed = try SourceMove.step("looking up move \(question.move)") {
            try host.moves.answer(question.move, from: host.ownership)
        }
        try conversation.send(.outcome, Outcome(move: question.move, committed: committed))
    }

    /// A destination whose wire broke after the commit asks whether this host has given the unit up.
    private func answerDeparted(_ question: DepartureAnswer) throws(MoveError) {
        var answer = DepartureAnswer(unit: question.unit, departed: false, kept: false)
        switch host.ownership.state(of: question.unit) {
        case .departed: answer.departed = true
        case .here, .arrived: answer.kept = true
        case .inDoubt, .unknown: break
        }
        try conversation.send(.departure, answer)
    }

    private func answerRunning(_ question: RunningAnswer) throws(MoveError) {
        var answer = RunningAnswer(unit: question.unit, running: try isOurs(question.unit))
        if !answer.running, case .departed(let owner) = host.ownership.state(of: question.unit),
            owner != conversation.channel.remoteName
        {
            // Not the asker's either: who has the unit now must be asked.
            (answer.running, answer.owner) = (true, owner)
        }
        try conversation.send(.running, answer)
    }

    /// Whether the unit runs here, or is in the middle of a move. Who is told that it does not may start it: from then
    /// on it is his, and a start here asks him.
    private func isOurs(_ unit: String) throws(MoveError) -> Bool {
        let state = host.ownership.state(of: unit)
        if case .inDoubt = state { return true }
        if Files.exists(MoveDropIns.path(unit, .departing)) || Files.exists(MoveDropIns.path(unit, .arriving)) {
            return true
        }
        let status = try SourceMove.step("asking systemd for \(unit)") {
            try SourceMove.systemd().unitProperties(unit)
        }
        if status.activeState != "inactive" && status.activeState != "failed" { return true }
        if state.isHere {
            let asker = conversation.channel.remoteName
            try SourceMove.step("handing \(unit) over to node \(asker)") {
                try host.ownership.record(.departed(to: asker), for: unit)
            }
            log.notice("\(unit) is node \(asker)'s now, which asked for it")
        }
        return false
    }

    private func receive(_ offer: Offer) throws(MoveError) {
        log[metadataKey: "unit"] = "\(offer.unit)"
        log[metadataKey: "move"] = "\(offer.move)"
        if !offer.checkOnly { Waypoint.destinationOffer.pass() }
        let systemd = try SourceMove.systemd()
        let inspection = ArrivalCheck(
            offer: offer, remote: conversation.channel.remoteHello, host: host, systemd: systemd)
        let lines = inspection.run()
        try conversation.send(.verdict, Verdict(lines: lines))
        guard !offer.checkOnly, lines.allSatisfy(\.passed), let view = inspection.view else { return }
        Waypoint.destinationVerdict.pass()
        guard let next = try conversation.next(before: .after(milliseconds: 60_000)),
            next.type == MessageType.prepare.rawValue
        else { return }
        let arrival = Arrival(
            offer: offer, from: conversation.peer, view: view, host: host, systemd: systemd, log: log)
        arriving(offer.unit, .preparing)
        host.armFault()
        do throws(MoveError) {
            try arrival.prepare(&undo)
            try recordGuest(offer.unit)
            Waypoint.destinationPrepared.pass()
            try conversation.send(.prepared)
            try takeImage(arrival)
        } catch {
            log.error("the arrival of \(offer.unit) fails: \(error)")
            host.moves.abandon(offer.move)
            undo.rollBack().forEach { log.error("rolling back: \($0)") }
            arriving(offer.unit, .rolledBack)
            if error.kind != .channel { try? conversation.send(.failure, Reason(problem: error.problem)) }
            throw error
        }
        // The service runs here: nothing is undone from now on, whatever happens to the wire.
        undo.commit()
        do throws(MoveError) {
            try conversation.send(.committed)
            Waypoint.destinationCommitted.pass()
            try takeHeldFrames(arrival)
            Waypoint.destinationFrames.pass()
        } catch {
            log.warning("the source's held packets are lost; their senders repeat them: \(error)")
        }
        arrival.releaseHold()
        Waypoint.destinationReleased.pass()
        arrival.settle { [arriving] in arriving(offer.unit, .done) }
        do throws(MoveError) { try takeHeldFrames(arrival) } catch { log.notice("forwarding ended early: \(error)") }
        arrival.closeLanes()
        // Nothing to do if the source has said so, as it does unless the wire broke.
        host.confirmInBackground(offer.unit)
    }

    /// From the image to the commit. A source that could not capture at the first freeze sends a second image.
    private func takeImage(_ arrival: Arrival) throws(MoveError) {
        while true {
            guard let message = try conversation.next(before: .after(milliseconds: 120_000)) else {
                throw MoveError(.channel, "the source fell silent")
            }
            try Conversation.raiseFailure(message, from: conversation.peer)
            switch MessageType(rawValue: message.type) {
            case .image: try arrival.apply(Conversation.decode(ImageMessage.self, from: message))
            case .pages: try arrival.write(message.payload)
            case .complete:
                try arrival.complete(&undo)
                try conversation.send(.ready)
                Waypoint.destinationReady.pass()
            case .commit:
                Waypoint.destinationCommit.pass()
                try arrival.requireComplete()
                try commit(arrival.offer)
                Waypoint.destinationDecided.pass()
                arrival.run()
                return
            default: throw MoveError(.channel, "message type \(message.type) is not due")
            }
        }
    }

    /// The point of no return, unless it was decided otherwise meanwhile: the source asked.
    private func commit(_ offer: Offer) throws(MoveError) {
        let isCommitted = try SourceMove.step("recording the commit") {
            try host.moves.commit(offer.move, unit: offer.unit, in: host.ownership)
        }
        guard isCommitted else {
            throw MoveError(.step, "the source has been told that this move was abandoned")
        }
    }

    /// Until the commit the unit is its source's, also for a start after a crash of this host in the middle: the source
    /// may run it, or have it frozen and silent. A move that fails leaves it so.
    private func recordGuest(_ unit: String) throws(MoveError) {
        try SourceMove.step("recording whose \(unit) is") {
            try host.ownership.record(.departed(to: conversation.channel.remoteName), for: unit)
        }
    }

    /// Puts in what the source sends until it has ended every lane.
    private func takeHeldFrames(_ arrival: Arrival) throws(MoveError) {
        var open = arrival.lanes.count
        while open > 0 {
            guard let message = try conversation.next(before: .after(milliseconds: 10_000)) else {
                throw MoveError(.channel, "the source fell silent")
            }
            switch MessageType(rawValue: message.type) {
            case .frames:
                let frames = try Conversation.decode(FramesMessage.self, from: message)
                try SourceMove.step("putting in held packets") { try arrival.put(frames) }
            case .framesEnd: open -= 1
            case .departed: try host.confirmed(arrival.offer.unit, arrival.offer.move)
            default: throw MoveError(.channel, "message type \(message.type) is not due")
            }
        }
    }
}
