import Foundation
import Glibc
import Kernel
import Lab

/// The course of the demo: content, load, two moves, the reckoning.
struct Demo {
    static let unit = "nginx.service"
    static let address = "10.10.10.11"
    static let size = 64 << 20
    static let annotation = "[X-Mobility]\nVirtualAddress=\(address)/24\n"

    let mover: any Mover
    let rate: Int
    let silenceLimit: Double
    let a: LabHost
    let b: LabHost
    let client: LabHost
    private var outcome = Outcome()

    init(lab: Lab, mover: any Mover, rate: Int, silenceLimit: Double) throws {
        self.mover = mover
        self.rate = rate
        self.silenceLimit = silenceLimit
        (a, b, client) = try (lab["a"], lab["b"], lab["c"])
    }

    mutating func run() throws -> Outcome {
        try mover.prepare([a, b], address: Self.address)
        let hash = try writeContent()
        for host in [a, b] {
            try host.write("/etc/systemd/system/\(Self.unit).d/mobility.conf", Self.annotation)
            try host.run("systemctl", "daemon-reload")
        }
        try mover.beforeStart(on: a, address: Self.address)
        try a.run("systemctl", "start", Self.unit)
        let before = try MasterProcess(of: Self.unit, on: a)
        say("nginx runs on a at \(Self.address): master \(before.pid), AT_RANDOM \(before.randomText)")

        let download = try Load(
            [
                "download", "--host", Self.address, "--port", "80", "--path", "/big.bin", "--rate", "\(rate)",
                "--expect-sha256", hash,
            ], on: client)
        defer { download.process.kill() }
        let keepalive = try Load(
            [
                "keepalive", "--host", Self.address, "--port", "80", "--path", "/index.nginx-debian.html",
                "--connections", "50", "--interval-ms", "10",
            ], on: client)
        defer { keepalive.process.kill() }
        try awaitProgress(download, keepalive)
        let counters = try client.counters()
        do {
            try move(from: a, to: b, before, download, keepalive)
            // After a move that came to nothing the service is still on a: there is nothing to bring back.
            if outcome.moves == 1 { try move(from: b, to: a, before, download, keepalive) }
        } catch {
            outcome.problems.append("\(error)")
        }
        try reckon(counters, download, keepalive)
        return outcome
    }

    /// 64 MiB of noise, the same on both hosts; returns their SHA-256.
    private func writeContent() throws -> String {
        let path = "/var/www/html/big.bin"
        try a.run("head", "-c", "\(Self.size)", "/dev/urandom", output: path)
        let source = try a.open(path, O_RDONLY)
        let copy = try b.open(path, O_WRONLY | O_CREAT | O_TRUNC, mode: 0o644)
        while true {
            let piece = try source.read(upTo: 1 << 20)
            if piece.isEmpty { break }
            try copy.writeAll(piece)
        }
        let sums = try [a, b].map { try $0.run("sha256sum", path).trimmed.prefix(64) }
        guard sums[0] == sums[1], sums[0].count == 64 else { throw LabError("\(path) differs between the hosts") }
        return String(sums[0])
    }

    private func awaitProgress(_ download: Load, _ keepalive: Load) throws {
        try waitUntil("first bytes of the download", timeout: .seconds(10)) {
            (try download.latest().bytes ?? 0) > rate / 2
        }
        // The first window ends here; its answers show that the load runs.
        _ = try download.window()
        try waitUntil("answers to the kept-alive connections", timeout: .seconds(10)) {
            (try keepalive.window().requests ?? 0) > 50
        }
    }

    private mutating func move(
        from source: LabHost, to destination: LabHost, _ original: MasterProcess, _ download: Load, _ keepalive: Load
    ) throws {
        let name = "\(source.name)→\(destination.name)"
        say("\nMove \(name)")
        _ = try (download.window(), keepalive.window())
        let bytesBefore = try download.latest().bytes ?? 0
        let bootMinusReal = Double(Clock.boottime - Clock.realtime) / 1e9
        let report = try mover.move(Self.unit, address: Self.address, from: source, to: destination)
        outcome.frozen.append(report.frozenMilliseconds)
        if let problem = report.problem { outcome.problems.append(problem) } else { outcome.moves += 1 }
        let bytesAfter = try download.latest().bytes ?? 0
        printPhases(report)
        try measureSilence(name, download, keepalive)
        let midFlight = bytesBefore > 0 && bytesAfter < Self.size && download.process.isRunning
        say("  download: \(bytesBefore) bytes before, \(bytesAfter) after, of \(Self.size)")
        if !midFlight { outcome.problems.append("the download was not in mid-flight during \(name)") }
        if report.problem == nil {
            checkMaster(original, on: destination, name: name, freeze: report.freezeTime.map { $0 + bootMinusReal })
        }
        for host in [source, destination] {
            let status = try host.run("systemctl", "status", "--no-pager", "-n", "0", Self.unit, allowFailure: true)
            say("  systemctl status on \(host.name):")
            for line in status.output.split(separator: "\n") { say("    \(line)") }
        }
    }

    private func printPhases(_ report: MoveReport) {
        guard let start = report.phases.first?.time else { return }
        for (phase, time) in report.phases {
            say(String(format: "  %8.1f ms  ", (time - start) * 1000) + phase)
        }
        say(String(format: "  frozen for %.1f ms", report.frozenMilliseconds))
    }

    /// Looks at both programs' silences since the move began, once they are served again.
    private mutating func measureSilence(_ name: String, _ download: Load, _ keepalive: Load) throws {
        let reached = try download.latest().bytes ?? 0
        _ = try? waitUntil("progress of the download", timeout: .seconds(3)) {
            (try download.latest().bytes ?? 0) > reached + rate / 2 || !download.process.isRunning
        }
        let answers = try keepalive.window()
        let bulk = download.process.isRunning ? try download.window() : try download.latest()
        // A connection that fails starts its wait anew; the time in which nobody at all was answered does not.
        let kept = max(answers.longest_silence_ms ?? 0, answers.longest_total_silence_ms ?? 0)
        let silence = max(kept, bulk.window_silence_ms ?? 0)
        outcome.longestSilence.append(silence)
        say(
            String(
                format: "  longest silence %.1f ms (kept-alive %.1f, download %.1f)", silence,
                kept, bulk.window_silence_ms ?? 0))
        if silence > silenceLimit {
            outcome.problems.append(
                "a client waited \(silence) ms during \(name); at most \(silenceLimit) ms are allowed")
        }
    }

    /// The same process: same pid, never exec'd, made on the destination before the source froze.
    private mutating func checkMaster(
        _ original: MasterProcess, on host: LabHost, name: String, freeze: Double?
    ) {
        do {
            let process = try MasterProcess(of: Self.unit, on: host)
            say("  master on \(host.name): \(process.pid), AT_RANDOM \(process.randomText)")
            if process.pid != original.pid {
                outcome.problems.append("the master's pid was \(original.pid), is \(process.pid) after \(name)")
            }
            if process.random != original.random {
                outcome.problems.append("AT_RANDOM of the master changed in \(name): it was exec'd, not moved")
            }
            guard let freeze else {
                return outcome.problems.append("the moment of the freeze of \(name) was not announced")
            }
            say(String(format: "  made %.0f ms before the freeze", (freeze - process.started) * 1000))
            if process.started >= freeze {
                outcome.problems.append("the master on \(host.name) was made only after the freeze of \(name)")
            }
        } catch {
            outcome.problems.append("after \(name): \(error)")
        }
    }

    /// Totals of the client, taken before the load ends so that its own closing does not count.
    private mutating func reckon(_ before: [String: Int], _ download: Load, _ keepalive: Load) throws {
        let after = try client.counters()
        func delta(_ name: String) -> Int { (after[name] ?? 0) - (before[name] ?? 0) }
        if download.process.isRunning { try download.process.signal(SIGUSR2) }
        let file = try download.end(timeout: .seconds(60))
        try keepalive.process.signal(SIGTERM)
        let answers = try keepalive.end(timeout: .seconds(10))

        outcome.hashOK = file.hash_ok ?? false
        outcome.requests = answers.requests ?? 0
        outcome.failed = answers.failed ?? 0
        outcome.resets = delta("Tcp.EstabResets") + (answers.resets ?? 0) + (file.resets ?? 0)
        outcome.timeouts = delta("TcpExt.TCPTimeouts")
        outcome.retransmitted = delta("Tcp.RetransSegs")
        say(
            "\nClient: "
                + [
                    "Tcp.RetransSegs", "TcpExt.TCPTimeouts", "TcpExt.TCPLossProbes", "Tcp.EstabResets",
                    "Tcp.OutRsts", "Tcp.AttemptFails",
                ].map { "\($0) +\(delta($0))" }.joined(separator: ", "))
        say("\(outcome.requests) requests answered, \(outcome.failed) failed, \(answers.reconnects ?? 0) reconnects")

        if outcome.moves != 2 { outcome.problems.append("\(outcome.moves) of 2 moves were made") }
        if !outcome.hashOK { outcome.problems.append("the download is not whole: \(file.error ?? "")") }
        if outcome.failed > 0 { outcome.problems.append("\(outcome.failed) requests failed: \(answers.error ?? "")") }
        if outcome.resets > 0 { outcome.problems.append("\(outcome.resets) connections were reset") }
        if outcome.timeouts > 0 {
            outcome.problems.append("\(outcome.timeouts) retransmission timeouts on the client (TcpExt.TCPTimeouts)")
        }
    }
}

extension LabHost {
    /// Runs a command with its standard output in a file of the host.
    func run(_ command: String..., output path: String) throws {
        try run(["sh", "-c", "exec \"$@\" > \"$0\"", path] + command)
    }
}
