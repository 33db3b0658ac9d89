import Addressing
import Capture
import Glibc
import Kernel
import Logging
import Resources
import Units

/// What a former process of this daemon left of a move of one unit, and how it is brought to its end.
///
/// A daemon that starts looks at every annotated unit. The records tell which side of which point a move had reached;
/// everything here may be repeated, should this process end as well.
public struct Recovery: Sendable {
    /// What is left of a move.
    public enum Remains: Equatable, Sendable {
        /// Departing, and not committed: the service runs on here.
        case departure
        /// Departing, and the destination must say whether it runs the service.
        case inDoubt(move: String, destination: String)
        /// Departed; only clearing away is left.
        case departed
        /// Departed and cleared away, but for packets that were still sent on.
        case forwarding
        /// Arriving, and not committed: nothing of it stays.
        case arrival
        /// Arriving, and committed: the service lives here.
        case arrived
    }

    let host: Host
    let unit: String
    public let remains: Remains

    /// Nil when nothing is left of any move of the unit.
    public init?(host: Host, unit: String) {
        self.host = host
        self.unit = unit
        if let text = try? Files.readText(MoveDropIns.path(unit, .arriving)) {
            let move = Self.move(of: text)
            do throws(KernelError) {
                remains = try host.ownership.wasCommitted(move: move ?? "") ? .arrived : .arrival
            } catch {
                // Neither to be thawed nor to be ended by a guess: it stays as it is, and a restart looks again.
                host.log.critical("\(unit) arrived, and whether it was committed cannot be read: \(error)")
                return nil
            }
            return
        }
        let isStaged = Files.exists(MoveDropIns.path(unit, .departing))
        switch host.ownership.state(of: unit) {
        case .inDoubt(let move, let destination): remains = .inDoubt(move: move, destination: destination)
        case .here where isStaged: remains = .departure
        case .departed where isStaged: remains = .departed
        case .departed where Self.isHeld(unit, host): remains = .forwarding
        default: return nil
        }
    }

    private static func isHeld(_ unit: String, _ host: Host) -> Bool {
        guard let systemd = try? SourceMove.systemd(), let view = try? UnitView.load(unit, systemd: systemd),
            let held = try? host.hold.heldAddresses()
        else { return false }
        return view.addresses.contains { address in held.contains { $0.bytes == address.bytes } }
    }

    /// The line of the arrival drop-in that names its move.
    static func moveLine(_ move: String) -> String { "# Move=\(move)\n" }

    private static func move(of dropIn: String) -> String? {
        dropIn.split(separator: "\n").first { $0.hasPrefix("# Move=") }.map { String($0.dropFirst(7)) }
    }

    private var arrivingMove: String? {
        (try? Files.readText(MoveDropIns.path(unit, .arriving))).flatMap { Self.move(of: $0) }
    }

    /// Brings it to its end; a move in doubt is asked about until its destination answers.
    public func run() {
        host.log.warning("taking up an unfinished move of \(unit): \(remains)")
        switch remains {
        case .departure: undoDeparture()
        case .departed: finishDeparture()
        case .forwarding: dropAddresses()
        case .arrival: undoArrival()
        case .arrived: finishArrival()
        case .inDoubt(let move, let destination):
            host.doubts.begin(unit)
            defer { host.doubts.end(unit) }
            if host.askOutcome(of: move, unit: unit, at: destination) {
                record(.departed(to: destination))
                finishDeparture()
            } else {
                record(.here)
                undoDeparture()
            }
        }
        host.log.notice("the unfinished move of \(unit) is brought to its end")
    }

    // MARK: - The source's side

    /// Backwards through what a source does: connections, processes, packets, drop-in.
    private func undoDeparture() {
        addAddresses()
        if let cgroup {
            endRepair(in: cgroup, probing: false)
            attempt("putting back clients of \(unit) that wait") { try clients?.putBack() }
            attempt("thawing \(unit)") { try revive(cgroup) }
        }
        endHolds()
        removeDropIn(.departing) { [unit, host] in
            try SourceMove.systemd().deliverStop(unit)
            host.restartIfOwed(unit)
        }
        host.announce(lanes())
    }

    private func finishDeparture() {
        if let cgroup {
            let moving = Cgroup(path: cgroup.path + "/" + FrozenService.childName)
            // Repair mode stays: it is what keeps the sockets silent when their processes end.
            attempt("removing the shared memory of \(unit)") {
                for pid in try cgroup.processes() { try SharedMemoryUse.removeFiles(of: pid) }
            }
            attempt("ending the processes of \(unit)") { if moving.exists { try FrozenService(cgroup: cgroup).end() } }
        }
        clients?.end()
        dropAddresses()
        attempt("awaiting the end of \(unit)") {
            try SourceMove.systemd().awaitState(unit, ["inactive", "failed"], milliseconds: 10_000)
        }
        removeDropIn(.departing)
    }

    // MARK: - The destination's side

    private func undoArrival() {
        attempt("stopping \(unit)") {
            let systemd = try SourceMove.systemd()
            // Neither embryos nor frozen processes react to a stop; nothing of the service has run in them.
            if let cgroup {
                let moving = Cgroup(path: cgroup.path + "/" + FrozenService.childName)
                for pid in try cgroup.processes() { try? SharedMemoryUse.removeFiles(of: pid) }
                try cgroup.kill()
                if moving.exists { try moving.requestThaw() }
            }
            _ = try systemd.queueStop(unit)
            try systemd.awaitState(unit, ["inactive", "failed"], milliseconds: 10_000)
            try? systemd.resetFailed(unit)
        }
        dropAddresses()
        removeDropIn(.arriving)
    }

    private func finishArrival() {
        // Until the commit it was recorded as its source's; afterwards its record says what is known of that.
        if case .departed(let source) = host.ownership.state(of: unit), let move = arrivingMove {
            record(.arrived(move: move, source: source))
        }
        addAddresses()
        let places = lanes()
        for (address, interface) in places {
            let lane = HoldLane(address: address, interface: interface, queue: host.hold)
            attempt("answering for \(address)") {
                try lane.open()
                try lane.set([.hold])
            }
        }
        host.announce(places)
        if let cgroup {
            attempt("waking the connections of \(unit)") {
                try WakingFile(unit).perform().forEach { host.log.error("waking the connections: \($0)") }
            }
            endRepair(in: cgroup, probing: true)
            attempt("thawing \(unit)") { try revive(cgroup) }
            attempt("ending the holder") { try endHolder(in: cgroup) }
        }
        endHolds()
        let move = arrivingMove
        removeDropIn(.arriving) { [unit, host] in host.restartIfOwed(unit) }
        if let move { attempt("forgetting the move") { try host.settled(unit, move) } }
    }

    /// `mobility-arrive`, wherever it is in the unit.
    private func endHolder(in cgroup: Cgroup) throws(KernelError) {
        for pid in try cgroup.processes() {
            guard let program = try? Files.readLink("/proc/\(pid)/exe"), program == MoveDropIns.arriveProgram else {
                continue
            }
            try systemCall("kill", on: "pid \(pid)") { kill(pid, SIGTERM) }
        }
    }

    // MARK: - Both

    /// Those that the former process had taken out of the accept queues; once.
    private var clients: WaitingClients? {
        WaitingClients(unit: unit, host: host, adopting: host.takeKept(unit))
    }

    private var cgroup: Cgroup? {
        guard let view, let cgroup = try? view.cgroup(), cgroup.exists else { return nil }
        return cgroup
    }

    private var view: UnitView? {
        guard let systemd = try? SourceMove.systemd() else { return nil }
        return try? UnitView.load(unit, systemd: systemd)
    }

    private func lanes() -> [(VirtualAddress, NetworkInterface)] { (try? view?.interfaces(host.addresses)) ?? [] }

    private func addAddresses() {
        attempt("adding the addresses of \(unit)") { try host.addresses.add(lanes()) }
    }

    private func endRepair(in cgroup: Cgroup, probing: Bool) {
        attempt("waking the connections of \(unit)") {
            let files = try host.capture.files(pids: try cgroup.processes())
            RepairMode.end(in: files, probing: probing).forEach { host.log.error("waking the connections: \($0)") }
        }
    }

    private func revive(_ cgroup: Cgroup) throws {
        let moving = Cgroup(path: cgroup.path + "/" + FrozenService.childName)
        guard moving.exists else { return }
        // A call that ends with EINTR is better than a service that stays frozen.
        try? InterruptedCalls.restart(in: moving)
        try moving.thaw()
        try moving.moveProcesses(to: cgroup)
        try moving.remove()
    }

    /// The packets that waited went with the former process; those that come pass from now on.
    private func endHolds() {
        for (address, interface) in lanes() {
            attempt("ending the hold of \(address)") {
                let lane = HoldLane(address: address, interface: interface, queue: host.hold)
                try lane.open()
                try lane.release()
            }
        }
    }

    private func dropAddresses() {
        host.watches.end(unit)
        let places = lanes()
        host.stopAnnouncing(places.map(\.0))
        attempt("removing the addresses of \(unit)") { try host.addresses.remove(places) }
        endHolds()
        attempt("detaching the connect hook") { try host.hook.detach(unit: unit) }
    }

    /// - Parameter next: what is to be done once systemd no longer knows it.
    private func removeDropIn(_ role: MoveDropIns.Role, then next: @escaping @Sendable () throws -> Void = {}) {
        if role == .arriving { WakingFile(unit).remove() }
        attempt("removing the \(role.rawValue) drop-in") {
            try RuntimeDropIn(unit, role).remove()
            try host.managerReload.perform(for: unit, then: next)
        }
    }

    private func record(_ state: OwnershipJournal.State) {
        attempt("recording the outcome") { try host.ownership.record(state, for: unit) }
    }

    private func attempt(_ what: String, _ body: () throws -> Void) {
        do { try body() } catch { host.log.error("\(what): \(error)", metadata: ["unit": "\(unit)"]) }
    }
}
