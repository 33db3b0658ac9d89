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
            default: throw MoveError(.channel, "message type \(first.type) begins nothing")
            }
        } catch {
            log.error("\(error)")
        }
        conversation.channel.close()
    }

    /// A source that lost the wire asks how its move ended. Asking decides: what was not committed by now never is.
    private func answerQuery(_ question: Outcome) throws(MoveError) {
        let committed =
            host.ownership.wasCommitted(move: question.move)
            || host.moves.decide(question.move, .abandoned) == .committed
        try conversation.send(.outcome, Outcome(move: question.move, committed: committed))
    }

    private func answerRunning(_ question: RunningAnswer) throws(MoveError) {
        let systemd = try SourceMove.systemd()
        let status = try? systemd.unitProperties(question.unit)
        let running = status.map { $0.activeState != "inactive" && $0.activeState != "failed" } ?? false
        try conversation.send(.running, RunningAnswer(unit: question.unit, running: running))
    }

    private func receive(_ offer: Offer) throws(MoveError) {
        log[metadataKey: "unit"] = "\(offer.unit)"
        log[metadataKey: "move"] = "\(offer.move)"
        let systemd = try SourceMove.systemd()
        let inspection = ArrivalCheck(
            offer: offer, remote: conversation.channel.remoteHello, host: host, systemd: systemd)
        let lines = inspection.run()
        try conversation.send(.verdict, Verdict(lines: lines))
        guard !offer.checkOnly, lines.allSatisfy(\.passed), let view = inspection.view else { return }
        guard let next = try conversation.next(before: .after(milliseconds: 60_000)),
            next.type == MessageType.prepare.rawValue
        else { return }
        let arrival = Arrival(offer: offer, view: view, host: host, systemd: systemd, log: log)
        arriving(offer.unit, .preparing)
        host.armFault()
        do throws(MoveError) {
            try arrival.prepare(&undo)
            try conversation.send(.prepared)
            try takeImage(arrival)
        } catch {
            log.error("the arrival of \(offer.unit) fails: \(error)")
            _ = host.moves.decide(offer.move, .abandoned)
            undo.rollBack().forEach { log.error("rolling back: \($0)") }
            arriving(offer.unit, .rolledBack)
            if error.kind != .channel { try? conversation.send(.failure, Reason(problem: error.problem)) }
            throw error
        }
        // The service runs here: nothing is undone from now on, whatever happens to the wire.
        undo.commit()
        do throws(MoveError) {
            try conversation.send(.committed)
            try takeHeldFrames(arrival)
        } catch {
            log.warning("the source's held packets are lost; their senders repeat them: \(error)")
        }
        arrival.releaseHold()
        arrival.settle { [arriving] in arriving(offer.unit, .done) }
        do throws(MoveError) { try takeHeldFrames(arrival) } catch { log.notice("forwarding ended early: \(error)") }
        arrival.closeLanes()
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
            case .commit:
                try commit(arrival.offer)
                arrival.run()
                return
            default: throw MoveError(.channel, "message type \(message.type) is not due")
            }
        }
    }

    /// The point of no return. The record comes before the decision: what cannot be recorded is not committed, and a
    /// decision that went the other way meanwhile (the source asked) takes the record back.
    private func commit(_ offer: Offer) throws(MoveError) {
        try SourceMove.step("recording the commit") {
            try host.ownership.recordCommitted(move: offer.move, unit: offer.unit)
        }
        guard host.moves.decide(offer.move, .committed) == .committed else {
            host.ownership.forgetMove(offer.move)
            throw MoveError(.step, "the source has been told that this move was abandoned")
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
            default: throw MoveError(.channel, "message type \(message.type) is not due")
            }
        }
    }
}
