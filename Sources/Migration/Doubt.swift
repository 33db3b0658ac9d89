import Glibc
import Kernel
import Logging
import Synchronization
import Units

/// How an administrator ends the doubt about a unit, having made sure that the other host is off.
public enum Resolution: String, Sendable {
    /// The service runs on here.
    case keep
    /// It ends here; the other host had it.
    case giveUp = "give-up"
}

/// The units of this host whose destination has not said whether it runs them, and what an administrator has said.
public final class DoubtTable: Sendable {
    private let table = Mutex<[String: Resolution?]>([:])

    /// From before the move is on record as in doubt until that is on record no longer.
    func begin(_ unit: String) { table.withLock { $0.updateValue(nil, forKey: unit) } }
    func end(_ unit: String) { table.withLock { _ = $0.removeValue(forKey: unit) } }
    func resolution(of unit: String) -> Resolution? { table.withLock { $0[unit] ?? nil } }

    /// False if nobody asks about the unit.
    func resolve(_ unit: String, _ resolution: Resolution) -> Bool {
        table.withLock { table in
            guard table[unit] != nil else { return false }
            table[unit] = .some(resolution)
            return true
        }
    }
}

extension Host {
    /// Asks until there is an answer: did the destination commit? An administrator's word is one, too, while the unit
    /// is in the table of doubts.
    func askOutcome(of move: String, unit: String, at destination: String) -> Bool {
        while true {
            if let conversation = try? connect(to: destination, within: 2000) {
                defer { conversation.channel.close() }
                if (try? conversation.send(.query, Outcome(move: move, committed: false))) != nil,
                    let outcome = try? conversation.expect(.outcome, as: Outcome.self, within: 5000),
                    outcome.move == move
                {
                    return outcome.committed
                }
            }
            switch doubts.resolution(of: unit) {
            case .keep: return false
            case .giveUp: return true
            case nil: usleep(300_000)
            }
        }
    }

    /// Ends the doubt about a unit by an administrator's word that the other host is off. Returns once it is recorded.
    ///
    /// For a unit that has arrived and whose source has not confirmed it, `keep` takes the place of the confirmation.
    public func resolve(_ unit: String, _ resolution: Resolution) throws(MoveError) {
        switch ownership.state(of: unit) {
        case .inDoubt(let move, let destination):
            log.warning(
                "\(unit) is resolved by an administrator, who says that node \(destination) is off: \(resolution)",
                metadata: ["unit": "\(unit)", "move": "\(move)"])
            if doubts.resolve(unit, resolution) { return try awaitResolution(unit, resolution, destination) }
            // Nobody asks, since nothing of the unit is here any more.
            try SourceMove.step("recording the resolution") {
                try ownership.record(resolution == .keep ? .here : .departed(to: destination), for: unit)
            }
        case .arrived(let move, let source) where resolution == .keep:
            log.warning(
                "\(unit) is resolved by an administrator, who says that node \(source) is off",
                metadata: ["unit": "\(unit)", "move": "\(move)"])
            try confirmed(unit, move)
        case .arrived(_, let source):
            throw MoveError(
                .invalid, "\(unit) has arrived from node \(source); it is given up by stopping or moving it")
        case .here: throw MoveError(.invalid, "\(unit) is not in doubt: it is this node's")
        case .departed(let node): throw MoveError(.invalid, "\(unit) is not in doubt: it is node \(node)'s")
        case .unknown(let why): throw MoveError(.invalid, why)
        }
    }

    /// A question that is under way is let run out first; an answer to it counts, and not the administrator's word.
    private func awaitResolution(
        _ unit: String, _ resolution: Resolution, _ destination: String
    ) throws(MoveError) {
        let deadline = Deadline.after(milliseconds: 15_000)
        while case .inDoubt = ownership.state(of: unit) {
            if deadline.hasPassed { throw MoveError(.step, "\(unit) is still in doubt after 15 s") }
            usleep(20_000)
        }
        switch (resolution, ownership.state(of: unit)) {
        case (.keep, .departed):
            throw MoveError(.invalid, "node \(destination) has answered meanwhile, and runs \(unit)")
        case (.giveUp, .here):
            throw MoveError(
                .invalid, "node \(destination) has answered meanwhile, and does not run \(unit): it is here")
        default: break
        }
    }

    // MARK: - The destination's side

    /// What the source of a move says when its destination asks whether it has given the unit up.
    public enum Confirmation: Equatable, Sendable { case departed, undecided, kept }

    /// The source has recorded its departure, or an administrator has spoken for it: the unit is here for good.
    func confirmed(_ unit: String, _ move: String) throws(MoveError) {
        guard case .arrived(move, _) = ownership.state(of: unit) else { return }
        try SourceMove.step("recording that \(unit) is here for good") {
            try ownership.record(.here, for: unit)
            // As long as the drop-in names the move, it is what keeps the service alive through a crash.
            if !Files.exists(MoveDropIns.path(unit, .arriving)) { try ownership.forgetMove(move) }
        }
    }

    /// A host that lost its power between the decision to commit and the record of the arrival still has the unit as
    /// its source's, and the drop-in that would tell went with /run. Before anybody asks whose the unit is.
    ///
    /// - Returns: false if something could not be recorded.
    @discardableResult
    public func completeDecisions() -> Bool {
        do throws(KernelError) {
            for (move, unit) in try ownership.committedMoves() {
                guard case .departed(let source) = ownership.state(of: unit), move.hasPrefix(source + "-"),
                    !Files.exists(MoveDropIns.path(unit, .arriving))
                else { continue }
                log.warning("\(unit) came from node \(source) by a committed move that is not on record as arrived")
                try ownership.record(.arrived(move: move, source: source), for: unit)
            }
            return true
        } catch {
            log.critical("a committed move cannot be recorded as arrived: \(error)")
            return false
        }
    }

    /// The other half: the drop-in that named the move is gone.
    func settled(_ unit: String, _ move: String) throws(KernelError) {
        if ownership.state(of: unit) == .here { try ownership.forgetMove(move) }
    }

    /// The unit may move on once its source has given it up.
    func requireOwned(_ unit: String) throws(MoveError) {
        switch ownership.state(of: unit) {
        case .here: return
        case .arrived(_, let source):
            switch try confirmArrival(of: unit) {
            case .departed: return
            case .undecided:
                throw MoveError(
                    .invalid, "node \(source), from which \(unit) came, has not yet given it up; try again in a second")
            case .kept:
                foundKept(unit, source)
                throw MoveError(.invalid, "node \(source), from which \(unit) came, runs it as well")
            }
        case .departed(let node): throw MoveError(.invalid, "\(unit) is node \(node)'s")
        case .inDoubt(_, let node):
            throw MoveError(.invalid, "\(unit) is in doubt: node \(node) has not said whether it runs it")
        case .unknown(let why): throw MoveError(.invalid, why)
        }
    }

    /// Asks the source of a unit that has arrived whether it has given it up; if so that is recorded.
    public func confirmArrival(of unit: String) throws(MoveError) -> Confirmation {
        guard case .arrived(let move, let source) = ownership.state(of: unit) else { return .departed }
        let conversation = try connect(to: source, within: 2000)
        defer { conversation.channel.close() }
        try conversation.send(.askDeparted, DepartureAnswer(unit: unit, departed: false, kept: false))
        let answer = try conversation.expect(.departure, as: DepartureAnswer.self, within: 5000)
        if answer.departed { try confirmed(unit, move) }
        return answer.departed ? .departed : answer.kept ? .kept : .undecided
    }

    /// Asks now and then until the unit's source has given it up, on a thread of its own. A source that was told by
    /// its administrator that this host is off keeps the unit: it must not start here any more.
    public func confirmInBackground(_ unit: String) {
        do throws(KernelError) {
            try BlockingThread.start("confirm \(unit)") { [self] in
                var pause: UInt32 = 1
                while true {
                    let isRecorded = completeDecisions()
                    if case .arrived(_, let source) = ownership.state(of: unit) {
                        do throws(MoveError) {
                            if try confirmArrival(of: unit) == .kept { return foundKept(unit, source) }
                        } catch {
                            log.debug("node \(source) does not confirm the move of \(unit): \(error)")
                        }
                    } else if isRecorded {
                        return
                    }
                    sleep(pause)
                    pause = min(pause * 2, 30)
                }
            }
        } catch {
            log.error("nobody asks whether \(unit) has left its source: \(error)")
        }
    }

    private func foundKept(_ unit: String, _ source: String) {
        log.critical(
            """
            node \(source) was told by its administrator that this host is off, and runs \(unit), which arrived here \
            from it; stop it on one of the two
            """, metadata: ["unit": "\(unit)"])
    }
}
