import Addressing
import Capture
import Glibc
import Kernel
import KernelCapture
import ProcessImage
import Resources
import Units

/// The part of the source's side that touches the service: everything here is undone unless the move commits.
extension SourceMove {
    /// `pids` are the processes that the destination was told of.
    func perform(
        _ view: UnitView, _ pids: Set<Int32>, _ conversation: Conversation, systemd: SystemdClient
    ) throws(MoveError) {
        var undo = UndoStack()
        do throws(MoveError) {
            enter(.preparing)
            host.armFault()
            try stageDeparture(systemd, &undo)
            Waypoint.sourceStaged.pass()
            try conversation.send(.prepare)
            Waypoint.sourcePreparing.pass()
            _ = try conversation.expect(.prepared, within: 60_000)
            Waypoint.sourcePrepared.pass()
            try cancellation.check()
            // Undone last: as long as the lanes are silent no announcement leaves.
            undo.push("ownership of the addresses") { [self] in takeBackOwnership() }
            let lanes = try holdLanes(view, &undo)
            let frozen = try freezeAndSend(view, pids, lanes, conversation)
            undo.push("thaw") { try frozen.rollBack() }
            try requireActive(systemd)
            _ = try conversation.expect(.ready, within: 30_000)
            timeline.mark("ready")
            Waypoint.sourceReady.pass()
            try cancellation.close()
            giveUpOwnership(lanes.places)
            // Undone first: what is held for an address that is not here goes nowhere.
            undo.push("addresses") { [host] in try host.addresses.add(lanes.places) }
            try commit(frozen, lanes, conversation)
            undo.commit()
            finish(view, frozen, lanes, conversation, systemd)
        } catch {
            let problems = undo.rollBack()
            problems.forEach { log.error("rolling back: \($0)") }
            if error.kind != .channel { try? conversation.send(.abort, Reason(problem: error.problem)) }
            if error.kind == .reshaped { awaitRollBack(conversation) }
            if let since = timeline.marks.first(where: { $0.name == Phase.frozen.rawValue }) {
                progress.frozenMicroseconds = UInt64((Clock.monotonic - since.at) / 1000)
            }
            throw error
        }
    }

    /// A stop or a restart waits for the outcome of the move, and asks for another one than the service's running on
    /// elsewhere. Asked about while the destination is at work, which costs no time.
    private func requireActive(_ systemd: SystemdClient) throws(MoveError) {
        let state = try Self.step("asking systemd for \(unit)") { try systemd.unitProperties(unit).activeState }
        guard state == "active" || state == "reloading" else {
            throw MoveError(.cancelled, "the unit is being stopped here while it moves (it is \(state))")
        }
    }

    /// The destination answers an abort once nothing of this attempt remains there.
    private func awaitRollBack(_ conversation: Conversation) {
        while let message = try? conversation.next(before: .after(milliseconds: 20_000)) {
            if message.type == MessageType.failure.rawValue { return }
        }
    }

    /// From the commit on the destination speaks for the addresses, and its announcements are no attack. The lanes are
    /// silent: what a watch or an announcer of this host still sends goes nowhere.
    private func giveUpOwnership(_ places: [(VirtualAddress, NetworkInterface)]) {
        self.places = places
        host.watches.suspend(unit)
    }

    /// The reverse, for a destination that did not commit: it may have announced itself.
    private func takeBackOwnership() {
        guard !places.isEmpty else { return }
        host.watches.resume(unit)
        host.announce(places)
    }

    /// The runtime drop-in under which the unit's end here runs none of its Exec lines and is no failure.
    private func stageDeparture(_ systemd: SystemdClient, _ undo: inout UndoStack) throws(MoveError) {
        let dropIn = RuntimeDropIn(unit, .departing)
        do {
            try systemd.keepLoaded(unit)
            try dropIn.write(MoveDropIns.departure(unit: unit))
            undo.push("departure drop-in") { [unit, host] in
                try dropIn.remove()
                try host.managerReload.perform(for: unit) {
                    try SourceMove.systemd().deliverStop(unit)
                    host.restartIfOwed(unit)
                }
            }
            try systemd.reload()
        } catch {
            throw MoveError(.step, "staging the departure of \(unit): \(error)")
        }
    }

    /// From here on new connections wait; undone, they go to the service as if nothing had been.
    private func holdLanes(_ view: UnitView, _ undo: inout UndoStack) throws(MoveError) -> [HoldLane] {
        var lanes: [HoldLane] = []
        for (address, interface) in try view.interfaces(host.addresses) {
            let lane = HoldLane(address: address, interface: interface, queue: host.hold)
            do throws(AddressingError) { try lane.open() } catch { throw MoveError(.step, "\(error)") }
            undo.push("hold queue of \(address)") { try lane.release() }
            lanes.append(lane)
        }
        return lanes
    }

    /// Freezes and sends, again when the service changed or connections were still waiting to be accepted.
    private func freezeAndSend(
        _ view: UnitView, _ pids: Set<Int32>, _ lanes: [HoldLane], _ conversation: Conversation
    ) throws(MoveError) -> FrozenService {
        var attempt = 1
        while true {
            do throws(MoveError) {
                return try freezeOnce(view, pids, lanes, conversation)
            } catch  where error.kind == .changed && attempt < Self.attempts {
                log.info("freezing again: \(error.problem)")
                attempt += 1
                try cancellation.check()
            }
        }
    }

    private func freezeOnce(
        _ view: UnitView, _ pids: Set<Int32>, _ lanes: [HoldLane], _ conversation: Conversation
    ) throws(MoveError) -> FrozenService {
        try awaitClosedConnections(lanes)
        try awaitAccepting(view)
        for lane in lanes { try Self.step("holding new connections") { try lane.set([.holdSYN]) } }
        Waypoint.sourceHeld.pass()
        try awaitHandshakes(view)
        let frozen = FrozenService(cgroup: try view.cgroup())
        do throws(MoveError) {
            try Self.step("moving the processes of \(unit)") { try frozen.gather() }
            Waypoint.sourceGathered.pass()
            for lane in lanes { try Self.step("holding packets") { try lane.set([.hold, .gaps]) } }
            try Self.step("freezing \(unit)") { try frozen.freeze() }
            try requireShape(frozen.moving, pids)
            try awaitGaps(lanes)
            // Not before: what the service sends until it is frozen still reaches its clients.
            for lane in lanes { try Self.step("falling silent") { try lane.set([.hold, .silent, .answer]) } }
            let closing = try closingConnections(lanes)
            guard closing == 0 else {
                throw MoveError(.changed, "\(closing) connections were closed and are not yet acknowledged")
            }
            enter(.frozen)
            Waypoint.sourceFrozen.pass()
            try capture(view, frozen, lanes, conversation)
            return frozen
        } catch {
            for lane in lanes { try? lane.set([.holdSYN]) }
            do { try frozen.rollBack() } catch let problem { log.error("rolling back: \(problem)") }
            throw error
        }
    }

    /// What a connection has received out of order does not travel.
    private func awaitGaps(_ lanes: [HoldLane]) throws(MoveError) {
        let gaps = try Self.step("awaiting segments that are missing") {
            try OpenGaps.awaitFilled(at: lanes.map(\.address.mapped), module: host.capture)
        }
        if gaps.found > 0 { log.info("\(gaps.found) connections lacked segments, \(gaps.left) still do") }
    }

    /// The destination has made empty processes for these.
    private func requireShape(_ moving: Cgroup, _ pids: Set<Int32>) throws(MoveError) {
        let now = Set(try Self.step("listing processes") { try moving.processes() })
        guard now == pids else {
            throw MoveError(
                .reshaped,
                "since it was described \(unit) has made \(now.subtracting(pids).count) processes and ended "
                    + "\(pids.subtracting(now).count)")
        }
    }

    /// How long connections that the service has closed may take for their last bytes, ms.
    private static let closingLimit: Int64 = 10_000

    /// A connection that the service has closed has no descriptor, so it cannot travel: what the peer has not yet
    /// acknowledged would be lost. Their last bytes are let out first, while everything still runs as ever.
    private func awaitClosedConnections(_ lanes: [HoldLane]) throws(MoveError) {
        let deadline = Deadline.after(milliseconds: Self.closingLimit)
        var count = try closingConnections(lanes)
        if count > 0 { log.info("waiting for the last bytes of \(count) connections that \(unit) has closed") }
        while count > 0 {
            if deadline.hasPassed {
                throw MoveError(
                    .step,
                    "\(count) connections that the service has closed still have data on their way after"
                        + " \(Self.closingLimit / 1000) s; try again when these clients have taken it (`ss -tnp` on"
                        + " the source shows them without a process)")
            }
            try cancellation.check()
            usleep(1000)
            count = try closingConnections(lanes)
        }
    }

    private func closingConnections(_ lanes: [HoldLane]) throws(MoveError) -> Int {
        try Self.step("reading the closing connections") {
            try TCPTable.closing(of: lanes.map(\.address.mapped))
        }
    }

    /// The service's state, and its clients whom it has not accepted yet.
    private func read(
        _ view: UnitView, _ frozen: FrozenService, _ lanes: [HoldLane]
    ) throws(MoveError) -> (CapturedService, [WaitingConnection], [WaitingClients.HalfOpen]) {
        try Self.step("capturing \(unit)") {
            let service = try ServiceCapture(inspector(view, cgroup: frozen.moving))
            // What came into being since the check is checked now, while everything can still be undone.
            guard !service.snapshot.processes.contains(where: \.isZombie) else {
                throw MoveError(.reshaped, "one of its processes has ended")
            }
            let pids = service.snapshot.processes.map(\.pid)
            let refusals = try UnitLines.checkFrozen(view, pids: pids) + service.refusals().map { CheckLine($0) }
            guard refusals.isEmpty else { throw Self.refusal(refusals) }
            let clients = WaitingClients(unit: unit, host: host)
            frozen.clients = clients
            let waiting = try clients.take(service.snapshot.descriptors, in: service.check)
            let halfOpen = try clients.halfOpen(
                at: lanes.map(\.address.mapped), besides: service.snapshot.descriptors, waiting, module: host.capture)
            let captured = try service.capture()
            packets = try waitingPackets(service.snapshot.descriptors, lanes)
            return (captured, waiting, halfOpen)
        }
    }

    private func capture(
        _ view: UnitView, _ frozen: FrozenService, _ lanes: [HoldLane], _ conversation: Conversation
    ) throws(MoveError) {
        let (captured, waiting, halfOpen) = try read(view, frozen, lanes)
        frozen.holds = captured.holds
        timeline.mark("captured")
        Waypoint.sourceCaptured.pass()
        var local = LocalState()
        for path in view.ownPaths { try Self.step("reading \(path)") { try local.add(path) } }
        try Self.step("reading PID files") { try PidFiles.add(pidFiles, to: &local) }
        if view.status.privateTmp {
            for path in LocalState.privatePlaces {
                try Self.step("reading the private \(path)") {
                    try local.add(path, root: "/proc/\(view.status.mainPID)/root")
                }
            }
        }
        // It goes with the memory, also where CarryPaths= names it.
        let shared = Set(captured.image.sharedMemory.filter { $0.kind == .file }.map(\.name))
        local.entries.removeAll { shared.contains($0.path) }
        try conversation.send(
            .image,
            ImageMessage(image: captured.image, localState: local, waiting: waiting, halfOpen: halfOpen))
        timeline.mark("image sent")
        Waypoint.sourceImageSent.pass()
        let batch = PageBatch { payload throws(MoveError) in
            try conversation.send(.pages, payload: payload)
        }
        try Self.step("sending the memory of \(unit)") {
            let source = PageSource(image: captured.image, sharedSources: captured.sharedSources)
            for run in try source.runs() {
                try source.read(run, omittingZeroPages: true) { part, bytes throws(ResourceError) in
                    do throws(MoveError) { try batch.add(part, bytes.bytes) } catch {
                        throw ResourceError("page run", error.problem)
                    }
                }
            }
            try batch.flush()
        }
        progress.bytesSent = batch.bytes
        progress.bytesTotal = batch.bytes
        Waypoint.sourcePagesSent.pass()
        try conversation.send(.complete)
        timeline.mark("pages sent")
        Waypoint.sourceComplete.pass()
    }

    /// Datagrams that the service has not read yet, as packets for the destination's sockets.
    private func waitingPackets(
        _ descriptors: [DescriptorProbe], _ lanes: [HoldLane]
    ) throws(ResourceError) -> [FramesMessage] {
        let datagrams = try WaitingDatagrams.read(descriptors)
        return lanes.flatMap { lane in
            let frames = datagrams.filter { $0.destination.address == lane.address.mapped }.flatMap {
                HeldFrame.packets(of: $0.datagram, to: $0.destination)
            }
            return stride(from: 0, to: frames.count, by: HoldLane.batch).map { start in
                FramesMessage(
                    address: Bytes(lane.address.mapped),
                    frames: frames[start..<min(start + HoldLane.batch, frames.count)].map { Bytes($0.bytes) })
            }
        }
    }

    /// Runs a step whose error is not yet one of a move.
    static func step<Value>(_ what: String, _ body: () throws -> Value) throws(MoveError) -> Value {
        do { return try body() } catch let error as MoveError { throw error } catch let error as ResourceError {
            throw MoveError(TransientProblem.matches(error) ? .changed : .step, "\(what): \(error)")
        } catch {
            throw MoveError(.step, "\(what): \(error)")
        }
    }
}
