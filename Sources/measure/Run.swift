import Foundation
import Glibc
import Kernel
import Lab

/// One line of the table.
struct Figures: Codable {
    let `case`: String
    let family: Int
    let moves: Int
    let resets: Int
    let failed: Int
    let rto: Int
    let retransmitted_median: Double
    let silence_ms_max: Double
    /// Not among the keys that readers expect, and of use to people.
    let frozen_ms_median: Double
    let remark: String
}

/// Moves one case's service back and forth under its load.
struct Run {
    let lab: Lab
    let subject: Case
    let moves: Int

    func figures() throws -> Figures {
        let (a, client) = try (lab["a"], lab["c"])
        try subject.install(lab)
        for unit in [subject.unit] + [subject.bystander].compactMap({ $0 }) {
            try a.run("systemctl", "restart", unit)
        }
        let cable = try subject.isBadCable ? lab.degradeCable(of: "c", delay: 20, loss: 10) : nil
        defer { cable?.kill() }
        // Some other traffic for the service that moves while it is its neighbour who is measured.
        let other =
            try subject.bystander == nil
            ? nil : client.spawn(lab.clientProgram("bulk"), "down", subject.address, "7000")
        defer { other?.kill() }
        var (frozen, times): ([Double], [Int64]) = ([], [])
        let moved = try count(client) { number in
            let start = Clock.monotonic
            frozen.append(try move(number))
            times.append(Clock.monotonic - start)
        }
        var control = Counts()
        if subject.isBadCable {
            control = try count(client) { try Poll.pause(milliseconds: Int32(times[$0] / 1_000_000)) }
        }
        return Figures(
            case: subject.name, family: subject.family.rawValue, moves: moves,
            resets: moved.resets, failed: moved.failed, rto: max(0, moved.timeouts - control.timeouts),
            retransmitted_median: max(0, moved.retransmitted - control.retransmitted),
            silence_ms_max: moved.silence, frozen_ms_median: median(frozen), remark: remark(moved, control))
    }

    /// What a load and its kernel counted in a number of rounds.
    private struct Counts {
        var resets = 0, timeouts = 0, failed = 0
        /// Median of the rounds.
        var retransmitted = 0.0
        /// The longest of one client, milliseconds.
        var silence = 0.0
    }

    /// With a load of its own, so that its end tells of these rounds only.
    private func count(_ client: LabHost, _ round: (Int) throws -> Void) throws -> Counts {
        let load = try start(on: client)
        defer { load.process.kill() }
        try waitUntil("the load", timeout: .seconds(30)) { try isServed(load) }
        let start = try client.counters()
        var retransmitted: [Double] = []
        for number in 0..<moves {
            let before = try client.counters()
            try round(number)
            try settle(load)
            retransmitted.append(Double(try grown("Tcp.RetransSegs", since: before, client)))
        }
        let (resets, timeouts) = try (
            grown("Tcp.EstabResets", since: start, client), grown("TcpExt.TCPTimeouts", since: start, client)
        )
        let end = try finish(load)
        return Counts(
            resets: resets + (end.resets ?? 0), timeouts: timeouts, failed: end.failed ?? 0,
            retransmitted: median(retransmitted), silence: end.longest_silence_ms ?? 0)
    }

    private func remark(_ moved: Counts, _ control: Counts) -> String {
        guard subject.isBadCable else { return subject.remark }
        return subject.remark + "; with moves \(moved.timeouts) timeouts and a median of \(moved.retransmitted) "
            + "retransmissions, in as long a time without moves \(control.timeouts), \(control.retransmitted) and a "
            + "longest silence of \(Int(control.silence)) ms"
    }

    /// Moves once and returns the frozen time, milliseconds.
    private func move(_ number: Int) throws -> Double {
        let (source, destination) = number % 2 == 0 ? ("a", "b") : ("b", "a")
        let text = try lab[source].run(
            "mobilityctl", "migrate", "--json=short", subject.unit, destination, timeout: .seconds(60)
        ).output
        struct Status: Decodable {
            let frozenMicroseconds: UInt64
        }
        guard let line = text.split(separator: "\n").last,
            let status = try? JSONDecoder().decode(Status.self, from: Data(line.utf8))
        else { throw LabError("mobilityctl said no JSON: \(text)") }
        return Double(status.frozenMicroseconds) / 1000
    }

    // MARK: - The load

    private func start(on client: LabHost) throws -> Load {
        switch subject.load {
        case .requests(let arguments): try Load(arguments, on: client)
        case .program(let name, let arguments):
            try Load(program: try lab.clientProgram(name), arguments, on: client)
        }
    }

    private func isServed(_ load: Load) throws -> Bool {
        guard load.process.isRunning else {
            throw LabError("the load has ended: \(load.process.output)\(load.process.errorOutput)")
        }
        guard case .requests = subject.load else { return load.process.output.contains("\"start\"") }
        guard load.process.output.contains("\"start\"") else { return false }
        _ = try load.window()
        return load.lines.compactMap(\.requests).reduce(0, +) > 1000
    }

    /// Half a second of full load between two moves.
    private func settle(_ load: Load) throws {
        guard load.process.isRunning else { throw LabError("the load has ended: \(load.process.output.suffix(300))") }
        try Poll.pause(milliseconds: 500)
    }

    private func finish(_ load: Load) throws -> Load.Line {
        try subject.ending?(lab)
        try load.process.signal(SIGTERM)
        return try load.end(timeout: .seconds(20))
    }

    private func grown(_ name: String, since before: [String: Int], _ client: LabHost) throws -> Int {
        (try client.counters()[name] ?? 0) - (before[name] ?? 0)
    }

    private func median(_ values: [Double]) -> Double {
        let sorted = values.sorted()
        guard !sorted.isEmpty else { return 0 }
        let middle = sorted.count / 2
        return sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
    }
}
