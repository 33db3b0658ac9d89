import Addressing
import Capture
import Glibc
import Kernel
import Logging
import ProcessImage
import Resources
import Units

/// The source's side of one move, from the check to the end of forwarding. Runs on a thread of its own.
public final class SourceMove {
    /// Unique for ever; each attempt has its own, for a destination never takes up what it has abandoned.
    public private(set) var move: String
    public let unit: String
    public let destination: String
    let host: Host
    let options: MoveOptions
    let cancellation: Cancellation
    let report: @Sendable (MoveProgress) -> Void
    var progress = MoveProgress()
    var timeline = Timeline()
    /// Files by which the service is found, not declared in its unit.
    var pidFiles: [String] = []
    /// What this host no longer speaks for, from the commit on.
    var places: [(VirtualAddress, NetworkInterface)] = []
    /// Packets made of datagrams that wait in the service's sockets.
    var packets: [FramesMessage] = []
    /// The destination runs the service.
    var hasCommitted = false
    var log: Logger

    /// How often a service that changes while it is captured is tried again.
    static let attempts = 5

    public init(
        move: String, unit: String, destination: String, host: Host, options: MoveOptions,
        cancellation: Cancellation, report: @escaping @Sendable (MoveProgress) -> Void
    ) {
        self.move = move
        self.unit = unit
        self.destination = destination
        self.host = host
        self.options = options
        self.cancellation = cancellation
        self.report = report
        log = host.log
        log[metadataKey: "unit"] = "\(unit)"
        log[metadataKey: "move"] = "\(move)"
    }

    func enter(_ phase: Phase) {
        progress.phase = phase
        timeline.mark(phase.rawValue)
        log.info("move of \(unit) to \(destination): \(phase.rawValue)")
        report(progress)
    }

    /// Performs the move. Returns when the destination runs the service and this side has been cleared away; throws
    /// when it was rolled back (the service runs here as before) or refused.
    ///
    /// A service that makes and ends workers as its load goes is described anew when it has other processes at the
    /// freeze than those that were made for it.
    public func run() throws(MoveError) {
        let name = move
        var attempt = 1
        while true {
            do throws(MoveError) {
                return try runOnce()
            } catch  where error.kind == .reshaped && attempt < Self.attempts {
                log.info("describing \(unit) again: \(error.problem)")
                attempt += 1
                move = "\(name)-\(attempt)"
                timeline = Timeline()
                try cancellation.check()
            }
        }
    }

    private func runOnce() throws(MoveError) {
        enter(.checking)
        Waypoint.sourceChecking.pass()
        let systemd = try Self.systemd()
        let view = try UnitView.load(unit, systemd: systemd)
        guard view.status.activeState == "active" else {
            throw MoveError(.invalid, "\(unit) is \(view.status.activeState) here; only a running service can move")
        }
        try host.requireOwned(unit)
        let inspector = inspector(view, cgroup: try view.cgroup())
        let refused = (try localCheck(inspector, view) + NameLines.check(view)).filter { !$0.passed }
        guard refused.isEmpty else { throw Self.refusal(refused) }

        let conversation = try host.connect(to: destination)
        // After the commit the channel is the forwarding's.
        defer { if !hasCommitted { conversation.channel.close() } }
        let offer = try makeOffer(view, inspector, checkOnly: false)
        try conversation.send(.offer, offer)
        Waypoint.sourceOffered.pass()
        let verdict = try conversation.expect(.verdict, as: Verdict.self, within: 30_000)
        let failures = verdict.lines.filter { !$0.passed }
        guard failures.isEmpty else { throw Self.refusal(failures) }
        Waypoint.sourceVerdict.pass()
        try cancellation.check()
        let pids = Set(offer.sketch.processes.map(\.pid))
        pidFiles = PidFiles.find(naming: pids).filter { path in
            !view.ownPaths.contains { path == $0 || path.hasPrefix($0 + "/") }
        }
        try perform(view, pids, conversation, systemd: systemd)
    }

    /// Every check of a move to `destination`, this host's and the other's; nothing is disturbed.
    public func check() throws(MoveError) -> [CheckLine] {
        let view = try UnitView.load(unit, systemd: try Self.systemd())
        let inspector = inspector(view, cgroup: try view.cgroup())
        var lines = try localCheck(inspector, view) + NameLines.check(view)
        let offer: Offer
        do throws(MoveError) {
            offer = try makeOffer(view, inspector, checkOnly: true)
        } catch  where error.kind == .refused {
            return lines + [CheckLine("unit", unit, passed: false, why: error.problem)]
        }
        do throws(MoveError) {
            let conversation = try host.connect(to: destination)
            defer { conversation.channel.close() }
            lines.append(CheckLine("node", destination, passed: true, why: "reached and authenticated"))
            try conversation.send(.offer, offer)
            lines += try conversation.expect(.verdict, as: Verdict.self, within: 30_000).lines
        } catch {
            lines.append(CheckLine("node", destination, passed: false, why: "\(error)"))
        }
        return lines
    }

    static func refusal(_ lines: [CheckLine]) -> MoveError {
        let texts = lines.map { "\($0.check): \($0.subject): \($0.why)" }
        return MoveError(.refused, "the check failed: " + texts.joined(separator: " | "))
    }

    static func systemd() throws(MoveError) -> SystemdClient {
        do { return try SystemdClient() } catch { throw MoveError(.step, "\(error)") }
    }

    func inspector(_ view: UnitView, cgroup: Cgroup) -> ServiceInspector {
        ServiceInspector(
            unit: unit, cgroup: cgroup, virtualAddresses: view.addresses.map(\.mapped),
            carryPaths: view.annotation.carryPaths, allowsLoss: options.allowsLoss, module: host.capture,
            digests: host.digests)
    }

    /// How often a running service is looked at before it is said to hold something that cannot be carried.
    private static let looks = 4
    /// Between looks at a service with processes that its own have yet to reap, µs.
    private static let reapingPause: UInt32 = 400_000

    private func localCheck(_ inspector: ServiceInspector, _ view: UnitView) throws(MoveError) -> [CheckLine] {
        try Self.step("checking \(unit)") {
            var snapshot = try inspector.snapshot()
            var refusals = inspector.checkBeforehand(snapshot)
            // A running service changes while it is looked at: a descriptor that an epoll set watches is closed before
            // its number is read. Only what every look finds is so. What this misses is found once it is frozen.
            for _ in 1..<Self.looks where !refusals.isEmpty {
                // Servers with a pool of workers wait for ended ones once a second.
                if snapshot.processes.contains(where: \.isZombie) { usleep(Self.reapingPause) }
                snapshot = try inspector.snapshot()
                let found = Set(inspector.checkBeforehand(snapshot))
                refusals = refusals.filter(found.contains)
            }
            let unitLines = UnitLines.check(view, pids: snapshot.processes.filter { !$0.isZombie }.map(\.pid))
            if !refusals.isEmpty || !unitLines.isEmpty { return refusals.map { CheckLine($0) } + unitLines }
            return [
                CheckLine(
                    "resources", unit, passed: true, why: "all of \(snapshot.processes.count) processes can be carried")
            ]
        }
    }

    private func makeOffer(
        _ view: UnitView, _ inspector: ServiceInspector, checkOnly: Bool
    ) throws(MoveError) -> Offer {
        let sketch = try Self.step("describing \(unit)") { try Self.describe(inspector) }
        return Offer(
            move: move, unit: unit, virtualAddresses: view.addresses.map(\.description),
            interface: view.annotation.interface, type: view.status.type, pidFile: view.status.pidFile,
            mainPID: try mainPID(view, sketch), sketch: sketch, checkOnly: checkOnly)
    }

    /// The process that systemd is told at the destination. It knows none of a unit with GuessMainPID=no, as those of
    /// System V scripts are; then the only one that was not started by another is it.
    private func mainPID(_ view: UnitView, _ sketch: ServiceSketch) throws(MoveError) -> Int32 {
        if view.status.mainPID > 0 { return view.status.mainPID }
        let own = Set(sketch.processes.map(\.pid))
        let candidates = sketch.processes.filter { !own.contains($0.parent) }.map(\.pid)
        guard candidates.count == 1 else {
            let pids = candidates.map(String.init).joined(separator: ", ")
            throw MoveError(
                .refused,
                "systemd knows no main process of \(unit), and each of the processes \(pids) may be it; name the file "
                    + "that holds its pid with PIDFile= in the unit")
        }
        return candidates[0]
    }

    /// A process that ends, or a descriptor that is closed, while the service is described is not found any more; what
    /// is there the next time counts.
    private static func describe(_ inspector: ServiceInspector) throws(ResourceError) -> ServiceSketch {
        for _ in 1..<attempts {
            do throws(ResourceError) {
                return try inspector.sketch()
            } catch  where [.noEntry, .noProcess].contains(error.cause?.code) {}
        }
        return try inspector.sketch()
    }
}
