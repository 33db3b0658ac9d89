import Glibc
import Lab

/// What comes of a fault that never heals, and what an administrator then does: the second table.
extension Trial {
    /// The words of docs/protocol.md for who has switched the other host off.
    private static let proof = "--other-host-is-off"

    /// Waits for the end of what goes on by itself, ends a doubt by `resolve`, brings everything back, and moves.
    func judgeForGood(_ earlier: Watch, _ injection: Injection) throws -> CellResult {
        var watch = earlier
        do {
            try awaitStandstill(&watch)
            if watch.ranTwice { return result(.twice, "both hosts ran it: \(bench.describe(bench.copies()))") }
            let (outcome, connected) = try end(&watch)
            if !connected {
                bench.clients.end()
            } else if let problem = connectionProblem() {
                return result(.reset, problem + logs())
            }
            try injection.heal()
            try bench.settle(.seconds(20), mayEnd: outcome == .inDoubtThenGivenUp)
            return try again(outcome)
        } catch {
            return result(watch.ranTwice ? .twice : .stuck, "\(error)\(logs())")
        }
    }

    /// Until neither host has anything to do but to ask the other.
    private func awaitStandstill(_ watch: inout Watch) throws {
        var quiet = 0
        try waitUntil("standstill", timeout: .seconds(60), interval: .milliseconds(20)) {
            look(&watch)
            quiet = isAtStandstill ? quiet + 1 : 0
            // A daemon that is about to be told, or to notice, would change it meanwhile.
            guard quiet > 25 else { throw LabError(bench.describe(bench.copies())) }
            return true
        }
    }

    private var isAtStandstill: Bool {
        let (source, destination) = (standing.source, standing.destination)
        let copies = bench.copies()
        func has(_ view: HostView) -> Bool { !view.host.isUp || view.isListening && !view.isMoving }
        // In doubt: frozen, with the drop-in that keeps it so.
        if isInDoubt {
            return source.isListening && copies.filter { $0.host == source.host.name }.allSatisfy(\.isFrozen)
                && has(destination) && !copies.contains { $0.host == destination.host.name && $0.isFrozen }
        }
        return has(source) && has(destination) && !copies.contains(where: \.isFrozen)
    }

    private var isInDoubt: Bool { standing.source.host.isUp && standing.source.record.hasPrefix("in-doubt") }

    // MARK: - The administrator

    /// What it has come to, after an administrator's word if it needs one, and whether its connections must go on.
    private func end(_ watch: inout Watch) throws -> (Outcome, connected: Bool) {
        let (source, destination) = (standing.source, standing.destination)
        if isInDoubt { return try cell.fault.resolution == .keep ? keepAtSource(&watch) : giveUpAtSource() }
        let copies = bench.copies()
        guard let host = copies.first?.host else {
            let off = [source, destination].filter { !$0.host.isUp }
            guard !off.isEmpty else { throw LabError("no host runs it: \(bench.describe(copies))") }
            return (.downWithHost, false)
        }
        try requireSame(on: host)
        if host == source.host.name { return (.rolledBack, true) }
        guard destination.record.hasPrefix("arrived") else { return (.moved, true) }
        try switchOff(source)
        try resolve(destination, "keep")
        try awaitSame(on: destination, record: "here", &watch)
        return (.movedThenKept, true)
    }

    private func keepAtSource(_ watch: inout Watch) throws -> (Outcome, connected: Bool) {
        try switchOff(standing.destination)
        try resolve(standing.source, "keep")
        try awaitSame(on: standing.source, record: "here", &watch)
        // What the clients have heard from the other host, this one knows nothing of.
        return (.inDoubtThenKept, !watch.ranThere)
    }

    private func giveUpAtSource() throws -> (Outcome, connected: Bool) {
        try switchOff(standing.destination)
        try resolve(standing.source, "give-up")
        try waitUntil("end of the copy that was given up", timeout: .seconds(10)) {
            guard bench.copies().isEmpty, standing.source.record.hasPrefix("departed"), bench.isQuiet else {
                throw LabError(bench.describe(bench.copies()))
            }
            return true
        }
        return (.inDoubtThenGivenUp, false)
    }

    /// The proof that `resolve` asks for.
    private func switchOff(_ view: HostView) throws {
        if view.host.isUp { try bench.lab.crash(view.host.name) }
    }

    private func resolve(_ view: HostView, _ word: String) throws {
        try view.host.run("mobilityctl", "resolve", Bench.unit, "--\(word)", Self.proof)
    }

    private func awaitSame(on view: HostView, record: String, _ watch: inout Watch) throws {
        try waitUntil("what was resolved", timeout: .seconds(10)) {
            look(&watch)
            guard view.record == record, bench.isQuiet, !bench.copies().contains(where: \.isFrozen) else {
                throw LabError(bench.describe(bench.copies()))
            }
            try requireSame(on: view.host.name)
            return true
        }
        if watch.ranTwice { throw LabError("both hosts ran it: \(bench.describe(bench.copies()))") }
    }

    // MARK: - Judging

    /// The two processes that the cell began with run on that host and nothing of it anywhere else.
    private func requireSame(on host: String) throws {
        let copies = bench.copies()
        guard copies.allSatisfy({ $0.host == host && $0.random == standing.random }),
            Set(copies.map(\.innerPid)) == standing.pids
        else { throw LabError("another process runs: \(bench.describe(copies))") }
    }
}
