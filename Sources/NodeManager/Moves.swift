import BusContract
import BusService
import Kernel
import Migration

/// Moves away from this host.
extension NodeManager {
    public func migrate(unit: String, to node: String, options: MigrationOptions) throws(BusFault) -> MigrationID {
        // An option that would be passed over must not look obeyed: a dry run that moves is the worst of all.
        if options.dryRun {
            throw BusFault(.unsupported, "option dry-run is not available; CheckUnit tells what would fail")
        }
        if options.downtimeTargetMicroseconds != nil {
            throw BusFault(
                .unsupported, "option downtime-target is not available: memory is sent while the service is frozen")
        }
        guard self.node(node) != nil else { throw BusFault(.noSuchNode, "node \(node) is not enrolled here") }
        guard node != nodeName else { throw BusFault(.invalidArgument, "\(unit) is on node \(node) already") }
        // A record may have changed behind the view's back; it must not refuse a move.
        if service(unit) == nil { refreshServices() } else if service(unit)?.state == .remote { refresh(unit) }
        guard let info = service(unit) else {
            throw BusFault(.noSuchService, "unit \(unit) has no [X-Mobility] section or does not exist")
        }
        guard info.state != .failed else { throw BusFault(.badAnnotation, info.error) }
        guard info.state != .remote else { throw BusFault(.notLocal, "\(unit) is on node \(info.node)") }
        let cancellation = Cancellation()
        let migration = try register(unit, node, cancellation)
        post(.migrationNew(migration))
        do throws(KernelError) {
            try BlockingThread.start("move \(migration.id)") { [self] in
                perform(migration, options: options, cancellation: cancellation)
            }
        } catch {
            finish(migration.id, fault: BusFault(.internalError, "\(error)"))
        }
        return migration.id
    }

    private func register(
        _ unit: String, _ node: String, _ cancellation: Cancellation
    ) throws(BusFault) -> MigrationInfo {
        let isHere = host.ownership.state(of: unit).isHere
        return try state.withLock { (state) throws(BusFault) in
            if state.isStopping { throw BusFault(.shuttingDown, "mobilityd is ending") }
            // One that has arrived and only settles is waited for.
            guard !state.departing.contains(unit), !state.arriving.contains(unit) || isHere else {
                throw BusFault(.alreadyMigrating, "\(unit) is moving already")
            }
            let id = MigrationID(rawValue: state.nextMove)
            state.nextMove += 1
            let info = MigrationInfo(id: id, unit: unit, source: nodeName, destination: node, phase: .checking)
            state.moves[id] = Move(info: info, cancellation: cancellation)
            state.departing.insert(unit)
            return info
        }
    }

    private func perform(_ migration: MigrationInfo, options: MigrationOptions, cancellation: Cancellation) {
        var moveOptions = MoveOptions()
        moveOptions.allowsLoss = options.allowLoss
        let id = migration.id
        guard awaitSettling(migration.unit) else {
            return finish(id, fault: BusFault(.alreadyMigrating, "\(migration.unit) has not settled here yet"))
        }
        let name = "\(nodeName)-\(BootIdentity.short)-\(id)-\(Clock.realtime / 1_000_000)"
        let move = SourceMove(
            move: name, unit: migration.unit, destination: migration.destination, host: host, options: moveOptions,
            cancellation: cancellation, report: { [weak self] in self?.update(id, $0) })
        do throws(MoveError) {
            try move.run()
            finish(id, fault: nil)
        } catch {
            log.error(
                "move of \(migration.unit) to \(migration.destination): \(error)",
                metadata: ["unit": "\(migration.unit)"])
            post(.logMessage(id, priority: 3, line: error.problem))
            finish(id, fault: BusFault(error))
        }
    }

    /// Waits until the unit's arrival is over. Clients are served meanwhile; it takes a tenth of a second, and longer
    /// after a crash.
    private func awaitSettling(_ unit: String) -> Bool {
        let deadline = Deadline.after(milliseconds: 30_000)
        while state.withLock({ $0.arriving.contains(unit) }) {
            if deadline.hasPassed { return false }
            do { try Poll.pause(milliseconds: 5) } catch { return false }
        }
        return true
    }

    private func update(_ id: MigrationID, _ progress: MoveProgress) {
        let changed: MigrationInfo? = state.withLock { state in
            guard var move = state.moves[id] else { return nil }
            let phase = MigrationPhase(rawValue: progress.phase.rawValue) ?? .failed
            let isNews = move.info.phase != phase && !phase.isFinal
            move.info.bytesSent = progress.bytesSent
            move.info.bytesTotal = progress.bytesTotal
            move.info.frozenMicroseconds = progress.frozenMicroseconds
            move.info.downtimeMicroseconds = progress.frozenMicroseconds
            move.info.downtimeParts = progress.parts.map { DowntimePart($0.name, microseconds: $0.microseconds) }
            if isNews { move.info.phase = phase }
            state.moves[id] = move
            return isNews ? move.info : nil
        }
        if let changed {
            post(.migrationPhase(changed))
            post(.logMessage(id, priority: 6, line: "\(changed.unit): \(changed.phase.rawValue)"))
        }
    }

    private func finish(_ id: MigrationID, fault: BusFault?) {
        let (finished, forgotten) = state.withLock { state -> (MigrationInfo?, [MigrationID]) in
            guard var move = state.moves[id] else { return (nil, []) }
            move.info.phase = fault == nil ? .done : .rolledBack
            move.info.fault = fault
            state.moves[id] = move
            state.departing.remove(move.info.unit)
            let over = state.moves.values.filter(\.info.phase.isFinal).map(\.info.id).sorted()
            let old = Array(over.dropLast(Self.remembered))
            old.forEach { state.moves.removeValue(forKey: $0) }
            return (move.info, old)
        }
        guard let finished else { return }
        releaseIfEnded(finished.unit)
        refresh(finished.unit)
        post(.migrationFinished(finished))
        forgotten.forEach { post(.migrationForgotten($0)) }
    }

    public func cancel(_ id: MigrationID) throws(BusFault) {
        guard let move = state.withLock({ $0.moves[id] }) else {
            throw BusFault(.noSuchMigration, "no migration \(id) is known")
        }
        guard !move.info.phase.isFinal, move.cancellation.request() else {
            throw BusFault(.tooLate, "migration \(id) is \(move.info.phase.rawValue)")
        }
    }

    public func check(unit: String, node: String, completion: @escaping Completion<[CheckResult]>) {
        answer("check", completion) { [self] () throws(BusFault) in
            let move = SourceMove(
                move: "check", unit: unit, destination: node, host: host, options: MoveOptions(),
                cancellation: Cancellation(), report: { _ in })
            do throws(MoveError) {
                return try move.check().map {
                    CheckResult(check: $0.check, subject: $0.subject, passed: $0.passed, why: $0.why)
                }
            } catch {
                throw BusFault(error)
            }
        }
    }

    public func drain(node: String, options: MigrationOptions, completion: @escaping Completion<[MigrationID]>) {
        answer("drain", completion) { [self] () throws(BusFault) in
            guard node == nodeName else {
                throw BusFault(.notLocal, "node \(node) is drained by its own mobilityd; run the command there")
            }
            let target = options.destination.isEmpty ? nodes().first { $0.state != .own }?.name : options.destination
            guard let target else { throw BusFault(.noSuchNode, "no other node is enrolled here") }
            var begun: [MigrationID] = []
            for service in services() where service.state == .local && service.connectHookAttached {
                begun.append(try migrate(unit: service.unit, to: target, options: options))
            }
            return begun
        }
    }
}
