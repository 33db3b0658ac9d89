import Glibc
import Kernel
import Lab
import Migration

/// One cell: a move that is held at a point, the fault, what comes of it, and a move without a fault behind it.
struct Trial {
    let bench: Bench
    let cell: Cell
    let standing: Bench.Standing
    private let counters: [String: Int]
    private let start = Clock.monotonic

    /// How long the daemon is held at most, ms: less than any time-out of the product.
    private static let hold = 2500
    /// What the client's kernel must not have counted.
    private static let forbidden = ["Tcp.EstabResets", "Tcp.OutRsts"]

    init(bench: Bench, cell: Cell) throws {
        self.bench = bench
        self.cell = cell
        standing = try bench.stand()
        counters = try bench.client.counters()
    }

    func run() throws -> CellResult {
        let view = standing.view(cell.point.side)
        let injection = Injection(fault: cell.fault, bench: bench, standing: standing)
        try bench.arm(cell.point, on: view, milliseconds: Self.hold, plan: cell.fault.plan)
        defer { bench.release(cell.point, on: view) }
        let mover = try standing.source.host.spawn(
            "mobilityctl", "migrate", Bench.unit, standing.destination.host.name)
        defer { mover.kill() }
        guard try awaitPoint(view, mover) else {
            return result(.missed, "the move ended: \(mover.errorOutput)")
        }
        var watch = Watch()
        if cell.fault.isForGood { lookAhead(&watch) }
        let (applied, command) = try injection.apply()
        defer {
            command?.kill()
            try? injection.heal()
        }
        guard applied else {
            return result(.missed, "there was nothing to do it to: \(bench.describe(bench.copies()))")
        }
        poll(nil, 0, Int32(injection.pause / .milliseconds(1)))
        bench.release(cell.point, on: view)
        try look(&watch, for: injection.duration, mover)
        if cell.fault.isForGood { return try judgeForGood(watch, injection) }
        try injection.heal()
        return try judge(watch, mover, command)
    }

    private func awaitPoint(_ view: HostView, _ mover: LabProcess) throws -> Bool {
        var hasEnded = false
        try? waitUntil("the point", timeout: .seconds(10), interval: .milliseconds(1)) {
            if bench.isHeld(at: cell.point, on: view) { return true }
            // Some points lie behind what mobilityctl waits for.
            if !mover.isRunning {
                poll(nil, 0, 700)
                hasEnded = true
                return true
            }
            return false
        }
        return bench.isHeld(at: cell.point, on: view) || !hasEnded && mover.isRunning
    }

    // MARK: - Watching

    /// What was seen between the fault and the end of its consequences.
    struct Watch {
        var wasInDoubt = false
        var ranTwice = false
        /// The destination was seen at work.
        var ranThere = false
        /// How many looks in a row found the same.
        var doubts = 0
        var doubles = 0
        var last: [Copy] = []
    }

    func look(_ watch: inout Watch) {
        // A move that goes well is in doubt for a millisecond or two.
        watch.doubts = standing.source.record.hasPrefix("in-doubt") ? watch.doubts + 1 : 0
        if watch.doubts > 4 { watch.wasInDoubt = true }
        let copies = bench.copies()
        // A process under construction looks like the service, and does not do what it does.
        let running = copies.filter { copy in
            !copy.isFrozen && watch.last.contains { $0.pid == copy.pid && $0.naps < copy.naps }
        }
        watch.last = copies
        if running.contains(where: { $0.host == standing.destination.host.name }) { watch.ranThere = true }
        watch.doubles = Set(running.map(\.host)).count > 1 ? watch.doubles + 1 : 0
        if watch.doubles > 4 { watch.ranTwice = true }
    }

    /// Watches for that long and until mobilityctl has ended, which it does not while the move is in doubt.
    private func look(_ watch: inout Watch, for duration: Duration, _ mover: LabProcess) throws {
        let clock = ContinuousClock()
        let (end, limit) = (clock.now + duration, clock.now + duration + .seconds(45))
        while clock.now < end || mover.isRunning && !watch.wasInDoubt && clock.now < limit {
            look(&watch)
            poll(nil, 0, 10)
        }
    }

    /// Long enough to see whether a process that is there works: what a host that goes down for good has done by then,
    /// nobody can ask afterwards.
    private func lookAhead(_ watch: inout Watch) {
        for _ in 0..<10 {
            look(&watch)
            poll(nil, 0, 10)
        }
    }

    // MARK: - Judging

    private func judge(_ earlier: Watch, _ mover: LabProcess, _ command: LabProcess?) throws -> CellResult {
        var watch = earlier
        do {
            try waitUntil("rest", timeout: .seconds(20), interval: .milliseconds(10)) {
                look(&watch)
                guard command?.isRunning != true else { throw LabError("the command has not ended") }
                try bench.settle(.zero, processes: cell.fault.leavesPart ? 1 : 2, mayEnd: cell.mayLeaveNothing)
                return true
            }
        } catch {
            return result(watch.ranTwice ? .twice : .stuck, "\(error)\(logs())")
        }
        if watch.ranTwice { return result(.twice, "both hosts ran it at a time: \(bench.describe(bench.copies()))") }
        let copies = bench.copies()
        let isSame = copies.allSatisfy { $0.random == standing.random } && Set(copies.map(\.innerPid)) == standing.pids
        guard let host = copies.first?.host else {
            guard cell.mayLeaveNothing else { return result(.lost, bench.describe(copies) + logs()) }
            return try again(.ended)
        }
        if cell.fault.leavesPart, copies.count == 1, copies.allSatisfy({ $0.random == standing.random }) {
            try bench.view(host).host.run("systemctl", "restart", Bench.unit)
            return try again(.crippled)
        }
        guard isSame else {
            guard cell.mayEndService else {
                return result(.lost, "another process runs: \(bench.describe(copies))\(logs())")
            }
            return try again(.restarted)
        }
        let isMoved = host != standing.source.host.name
        if let problem = connectionProblem() { return result(.reset, problem + logs()) }
        let outcome: Outcome =
            switch (watch.wasInDoubt, isMoved) {
            case (false, false): .rolledBack
            case (false, true): .moved
            case (true, false): .inDoubtThenRolledBack
            case (true, true): .inDoubtThenMoved
            }
        return try again(outcome)
    }

    /// Nil if no connection of the clients was touched and all go on.
    func connectionProblem() -> String? {
        do {
            try bench.clients.awaitProgress(.seconds(8))
            let now = try bench.client.counters()
            for name in Self.forbidden {
                let grown = (now[name] ?? 0) - (counters[name] ?? 0)
                if grown > 0 { return "\(name) of the client grew by \(grown)" }
            }
            return nil
        } catch {
            return "\(error)"
        }
    }

    /// The next move must succeed, and its clients see nothing of it.
    func again(_ outcome: Outcome) throws -> CellResult {
        do {
            // Connections of a service that has ended hear of it only when they next send.
            if [.ended, .restarted, .crippled].contains(outcome) { bench.clients.end() }
            let next = try bench.stand()
            try bench.disarm()
            let before = try bench.client.counters()
            try move(next)
            try bench.settle(.seconds(10))
            let copies = bench.copies()
            guard copies.allSatisfy({ $0.host == next.destination.host.name && $0.random == next.random }) else {
                return result(.stuck, "after the next move: \(bench.describe(copies))\(logs())")
            }
            try bench.clients.awaitProgress(.seconds(5))
            let now = try bench.client.counters()
            for name in Self.forbidden where (now[name] ?? 0) > (before[name] ?? 0) {
                return result(.reset, "\(outcome.rawValue), and in the next move \(name) of the client grew\(logs())")
            }
            return result(outcome, "")
        } catch {
            return result(.stuck, "\(outcome.rawValue), and then: \(error)\(logs())")
        }
    }

    /// A daemon that has only just come back may be a moment from being able to.
    private func move(_ next: Bench.Standing) throws {
        try waitUntil("success of the next move", timeout: .seconds(10), interval: .milliseconds(200)) {
            try next.source.host.run("mobilityctl", "migrate", Bench.unit, next.destination.host.name)
            return true
        }
    }

    func result(_ outcome: Outcome, _ detail: String) -> CellResult {
        CellResult(
            cell: cell, outcome: outcome, detail: detail, milliseconds: Int((Clock.monotonic - start) / 1_000_000))
    }

    func logs() -> String {
        [standing.source, standing.destination].map { view in
            let log = try? view.host.run(
                "sh", "-c",
                "journalctl --sync; journalctl -u mobilityd -u \(Bench.unit) --no-pager -n 45 -o short-precise",
                allowFailure: true)
            return "\n    --- \(view.host.name)\n" + (log?.output ?? "no journal")
        }.joined()
    }
}
