import Addressing
import Capture
import Clocks
import Glibc
import Kernel
import Logging
import ProcessImage
import Resources
import Restore
import Units

/// One service on its way into this host: first the unit and empty processes, then its state, then life.
final class Arrival {
    let offer: Offer
    /// The node it comes from.
    private let source: String
    let view: UnitView
    let host: Host
    let systemd: SystemdClient
    let log: Logger
    private(set) var lanes: [HoldLane] = []
    private var announcement: Announcement?
    private var released: Set<VirtualAddress> = []
    private var timeline = Timeline()
    private var cgroup = Cgroup(path: "")
    private var holder: Int32 = 0
    private var tree: EmbryoTree?
    private var restore: ServiceRestore?
    private var warmth: MigrationWarmth?
    /// Clients whom the service had not accepted.
    private var waiting: [WaitingConnection] = []
    private var halfOpen: [WaitingClients.HalfOpen] = []
    private var hasLeftovers = false  // handshakes of an earlier stay: none is added while the addresses are away
    private var moving: Cgroup { Cgroup(path: cgroup.path + "/" + FrozenService.childName) }

    init(offer: Offer, from source: String, view: UnitView, host: Host, systemd: SystemdClient, log: Logger) {
        self.offer = offer
        self.source = source
        self.view = view
        self.host = host
        self.systemd = systemd
        self.log = log
    }

    // MARK: - Before the freeze

    /// Starts the unit with `mobility-arrive` in place of its program, makes the processes, and tells systemd which
    /// of them is the main one. Nothing of the service has run yet.
    func prepare(_ undo: inout UndoStack) throws(MoveError) {
        timeline.mark("prepare")
        let dropIn = RuntimeDropIn(offer.unit, .arriving)
        try SourceMove.step("staging the arrival of \(offer.unit)") {
            try dropIn.write(
                Recovery.moveLine(offer.move)
                    + MoveDropIns.arrival(
                        unit: offer.unit, type: view.status.type, privilege: view.status.execPrivilege,
                        restrictsExecPaths: !view.status.noExecPaths.isEmpty))
            undo.push("arrival drop-in") { [host, offer] in
                WakingFile(offer.unit).remove()
                try dropIn.remove()
                try host.managerReload.perform(for: offer.unit)
            }
            try systemd.reload()
            try systemd.keepLoaded(offer.unit)
        }
        Waypoint.destinationStaged.pass()
        undo.push("arriving unit") { [self] in try stopUnit() }
        try SourceMove.step("starting \(offer.unit)") {
            _ = try systemd.queueStart(offer.unit)
            holder = try awaitHolder()
            cgroup = try Cgroup.at(systemd.unitProperties(offer.unit).controlGroup)
        }
        timeline.mark("unit started")
        Waypoint.destinationStarted.pass()
        try checkSandbox()
        try openLanes(&undo)
        try buildTree(&undo)
        try SourceMove.step("announcing the main process of \(offer.unit)") {
            try announceMainProcess()
            try systemd.awaitState(offer.unit, ["active"], milliseconds: 10_000)
        }
        Waypoint.destinationAnnounced.pass()
        try SourceMove.step("attaching the connect hook") {
            try host.hook.attach(
                unit: offer.unit, cgroupPath: cgroup.path, vips: view.addresses,
                options: view.hookOptions)
        }
        undo.push("connect hook") { [host, offer] in try host.hook.detach(unit: offer.unit) }
        timeline.mark("prepared")
        log.info("\(offer.unit) is prepared: \(timeline.report)")
    }

    /// As the service will see them: in the sandbox that systemd has made for the unit.
    private func checkSandbox() throws(MoveError) {
        if view.status.hasMountsOfItsOwn {
            let files = offer.sketch.files.filter { !$0.digest.isEmpty && !view.travels($0.path) }
            try verify(Set(files))
        }
        for process in offer.sketch.processes {
            for (path, what) in [(process.workingDirectory, "working"), (process.rootDirectory, "root")]
            where !Files.isDirectory(holderRoot + path) {
                throw MoveError(
                    .step,
                    "\(path), the \(what) directory of process \(process.pid), is not there on node \(host.name); make "
                        + "it there")
            }
        }
    }

    /// The pid of mobility-arrive once systemd has executed it in the unit's sandbox.
    private func awaitHolder() throws -> Int32 {
        let deadline = Deadline.after(milliseconds: 15_000)
        while !deadline.hasPassed {
            let status = try systemd.unitProperties(offer.unit)
            if status.mainPID > 0,
                let executable = try? Files.readLink("/proc/\(status.mainPID)/exe"),
                executable.hasSuffix("/mobility-arrive")
            {
                return status.mainPID
            }
            if status.activeState == "failed" || status.activeState == "inactive" && status.job == nil {
                throw MoveError(.step, "unit \(offer.unit) did not start here: \(status.result)")
            }
            usleep(2000)
        }
        throw MoveError(.step, "mobility-arrive of \(offer.unit) did not come up within 15 s")
    }

    /// In the name of the holder, whom NotifyAccess=all of the drop-in lets speak.
    private func announceMainProcess() throws {
        guard let socket = try NotifySender.socket(ofPID: holder) else {
            throw MoveError(.step, "the arriving unit has no NOTIFY_SOCKET")
        }
        var status = stat()
        try systemCall("stat", on: "/proc/\(holder)") { stat("/proc/\(holder)", &status) }
        try NotifySender.announce(
            mainPID: offer.mainPID, notifySocket: socket, asPID: holder, uid: status.st_uid, gid: status.st_gid)
    }

    private func stopUnit() throws {
        // The drop-in is still in place: no Exec line of the unit runs.
        _ = try systemd.queueStop(offer.unit)
        try systemd.awaitState(offer.unit, ["inactive", "failed"], milliseconds: 10_000)
        try? systemd.resetFailed(offer.unit)
    }

    private func openLanes(_ undo: inout UndoStack) throws(MoveError) {
        host.forwardings.end(view.addresses, keepingHold: true)
        for (address, interface) in try view.interfaces(host.addresses) {
            let lane = HoldLane(address: address, interface: interface, queue: host.hold)
            try SourceMove.step("holding packets for \(address)") {
                try lane.open()
                undo.push("hold queue of \(address)") { try lane.close() }
                try lane.set([.hold, .silent])
            }
            lanes.append(lane)
        }
        announcement = try SourceMove.step("preparing the announcement") { try Announcement(lanes.places) }
        hasLeftovers = try !WaitingClients.leftovers(at: lanes, host.capture).isEmpty
    }

    private func buildTree(_ undo: inout UndoStack) throws(MoveError) {
        tree = try SourceMove.step("making the processes of \(offer.unit)") {
            let clocks = try TimeNamespace.create(
                continuing: offer.sketch.clocks, elapsedRealtime: elapsed(offer.sketch.clocks))
            let directory = try FileDescriptor.open(cgroup.path, O_RDONLY | O_DIRECTORY)
            return try EmbryoTree.build(
                treeSketch, at: TreePlace(cgroup: directory.raw, holder: holder, timeNamespace: clocks.raw))
        }
        undo.push("embryos") { [self] in
            if let restore { restore.abandon() } else { tree?.abandon() }
            guard moving.exists else { return }
            try moving.kill()
            try moving.thaw()
            try moving.awaitEmpty()
            try moving.remove()
        }
        timeline.mark("processes made")
        Waypoint.destinationMade.pass()
    }

    /// The shape of the tree as the source described it.
    private var treeSketch: TreeSketch {
        let processes = offer.sketch.processes
        return TreeSketch(
            processes: processes.map {
                TreeSketch.Process(
                    pid: $0.pid, parent: $0.parent, group: $0.group, session: $0.session, threadCount: $0.threads.count)
            },
            mapped: processes.flatMap { $0.mappings.map { $0.start..<$0.end } },
            highestDescriptor: offer.sketch.highestDescriptor)
    }

    /// Nanoseconds since the clocks were read at the source, by the two hosts' time of day; never negative.
    private func elapsed(_ clocks: ClockImage) -> Int64 { max(0, Clock.realtime - clocks.realtime) }

    // MARK: - Frozen

    func apply(_ message: ImageMessage) throws(MoveError) {
        timeline.mark("image")
        warmth = try SourceMove.step("preparing to move processes") { try MigrationWarmth(holder, in: cgroup) }
        guard let tree else { throw MoveError(.channel, "an image before the processes were made") }
        try SourceMove.step("placing the unit's own files") {
            let state = PidFiles.arriving(message.localState, unless: view.ownPaths)
            try state.place(
                allowed: view.ownPaths + PidFiles.places(in: state, naming: Set(offer.sketch.processes.map(\.pid))),
                root: holderRoot)
        }
        try verifyFiles(message.image)
        try WaitingClients.admit(message, at: lanes)
        waiting = message.waiting
        halfOpen = message.halfOpen
        guard Set(message.image.processes.map(\.pid)) == Set(offer.sketch.processes.map(\.pid)) else {
            throw MoveError(.step, "the service has made or ended processes since the check")
        }
        try SourceMove.step("restoring the memory of \(offer.unit)") {
            let restore =
                try self.restore
                ?? ServiceRestore(tree: tree, image: message.image, congestion: host.congestion)
            self.restore = restore
            restore.frozenNanoseconds = elapsed(message.image.clocks)
            try restore.mapMemory(message.image)
        }
        timeline.mark("mapped")
        Waypoint.destinationImage.pass()
    }

    /// Files that the image names must be what they are at the source; most were compared before the freeze.
    private func verifyFiles(_ image: ServiceImage) throws(MoveError) {
        var identities = image.processes.flatMap { $0.vmas.compactMap(\.file) }
        for (index, description) in image.descriptions.enumerated() {
            if let record = FileDescriptorKind.record(of: description, index: Int32(index)), record.manner == .byPath {
                identities.append(record.identity)
            }
        }
        try verify(Set(identities.filter { !$0.digest.isEmpty }))
    }

    private func verify(_ identities: Set<FileIdentity>) throws(MoveError) {
        for identity in identities {
            let here = try SourceMove.step("reading \(identity.path)") {
                try host.digests.identity(path: identity.path, opened: holderRoot + identity.path)
            }
            guard here.digest == identity.digest else {
                throw MoveError(.step, "\(identity.path) differs from the source's")
            }
        }
    }

    private var holderRoot: String { "/proc/\(holder)/root" }

    func write(_ payload: [UInt8]) throws(MoveError) {
        guard let restore else { throw MoveError(.channel, "pages before an image") }
        try PageBatch.parse(payload) { run, bytes throws(MoveError) in
            try SourceMove.step("writing memory") { try bytes.withUnsafeBytes { try restore.write(run, $0) } }
        }
    }

    /// Everything but the last step: after this the service is complete, and frozen.
    func complete(_ undo: inout UndoStack) throws(MoveError) {
        guard let restore else { throw MoveError(.channel, "the end of an image that never began") }
        timeline.mark("pages")
        Waypoint.destinationPages.pass()
        try SourceMove.step("adding the addresses of \(offer.unit)") {
            try host.addresses.add(lanes.places)
            undo.push("the addresses") { [host, lanes] in try host.addresses.remove(lanes.places) }
        }
        try SourceMove.step("restoring \(offer.unit)") {
            if hasLeftovers { try WaitingClients.endLeftovers(at: lanes, host.capture) }
            try restore.restoreState()
            timeline.mark("state")
            try WaitingClients.put(waiting, elapsed: restore.frozenNanoseconds, through: host.hold)
            timeline.mark("clients")
            Waypoint.destinationRestored.pass()
            try requireActive()
            try restore.stop()
            timeline.mark("stopped")
            try cgroup.makeChild(FrozenService.childName)
            for process in restore.image.processes { try moving.take(pid: process.pid) }
            timeline.mark("gathered")
            try moving.freeze()
            try restore.release()
            try WakingFile(offer.unit).write(restore.awakening)
            warmth = nil
        }
        timeline.mark("complete")
        Waypoint.destinationComplete.pass()
    }

    /// Somebody may have stopped the unit here while it arrived; what he wanted is that it does not run here.
    private func requireActive() throws {
        let state = try systemd.unitProperties(offer.unit).activeState
        guard state == "active" else {
            throw MoveError(.step, "the unit was stopped here while it arrived (it is \(state))")
        }
    }

    /// Somebody may have killed one of the processes meanwhile; the source still has all of them.
    func requireComplete() throws(MoveError) {
        guard let restore else { throw MoveError(.channel, "a commit before an image") }
        let alive = Set(try SourceMove.step("listing processes") { try moving.processes() })
        let killed = restore.image.processes.map(\.pid).filter { !alive.contains($0) }
        guard killed.isEmpty else {
            throw MoveError(.step, "process \(killed[0]) of the service was killed here before it could run")
        }
    }

    // MARK: - Alive

    /// Life, after the commit was recorded. None of this may fail the move; what goes wrong is only logged.
    func run() {
        timeline.mark("commit")
        insist("recording that \(offer.unit) is here") {
            try host.ownership.record(.arrived(move: offer.move, source: source), for: offer.unit)
        }
        Waypoint.destinationArrived.pass()
        for lane in lanes { insist("answering for \(lane.address)") { try lane.set([.hold]) } }
        host.announce(lanes.places, first: announcement)
        Waypoint.destinationSpeaking.pass()
        insist("waking the connections") {
            if let problems = restore?.activate(), !problems.isEmpty {
                throw MoveError(.step, problems.joined(separator: "; "))
            }
        }
        insist("awaiting clients in their handshake") {
            try WaitingClients.expect(halfOpen, elapsed: restore?.frozenNanoseconds ?? 0, through: host, lanes)
        }
        insist("thawing \(offer.unit)") { try moving.thaw() }
        timeline.mark("running")
        Waypoint.destinationThawed.pass()
    }

    func put(_ frames: FramesMessage) throws {
        guard let lane = lanes.first(where: { $0.address.mapped == frames.address.content }) else {
            throw MoveError(.channel, "packets for an address that is not this service's")
        }
        try lane.put(frames)
    }

    func releaseHold() {
        for lane in lanes {
            attempt("releasing \(lane.address)") {
                try lane.queue.release(lane.address)
                released.insert(lane.address)
            }
        }
        timeline.mark("released")
    }

    /// Ends the lanes, but for one that was released and in which the service's next move already holds packets: that
    /// move ends it.
    func closeLanes() {
        for lane in lanes {
            attempt("closing the hold of \(lane.address)") {
                if try !released.contains(lane.address) || lane.queue.mode(of: lane.address) == [] {
                    try lane.close()
                }
            }
        }
    }

    /// Leaves the unit as if it had been started here, then calls `then`: no child cgroup, no holder, no drop-in.
    /// systemd takes a tenth of a second for this, in which packets that still reach the source must not wait: it is
    /// done on a thread of its own.
    func settle(_ then: @escaping @Sendable () -> Void) {
        log.info("\(offer.unit) runs here: \(timeline.report)")
        // What the daemon still holds of the service (memory objects, descriptors) would look like another user's.
        restore = nil
        tree = nil
        let work = Settling(
            unit: offer.unit, holder: holder, cgroup: cgroup, moving: moving, host: host,
            move: offer.move, addresses: lanes.places, log: log)
        do throws(KernelError) {
            try BlockingThread.start("settle") {
                work.run()
                then()
            }
        } catch {
            log.warning("packets that come late wait: \(error)")
            work.run()
            then()
        }
    }

    private func attempt(_ what: String, _ body: () throws -> Void) {
        do { try body() } catch { log.error("\(what): \(error)") }
    }

    /// Without this step the service would be here and not live; a shortage of a moment must not decide that.
    private func insist(_ what: String, _ body: () throws -> Void) {
        for _ in 1..<Self.tries {
            do { return try body() } catch { log.error("\(what), which is tried again: \(error)") }
        }
        attempt(what, body)
    }

    private static let tries = 5
}
