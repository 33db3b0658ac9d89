import Foundation
import Glibc
import Lab

/// What a move looked like from outside. Times are seconds of CLOCK_REALTIME.
struct MoveReport {
    /// Each phase and when it was announced.
    var phases: [(name: String, time: Double)] = []
    var frozenMilliseconds = 0.0
    /// When the processes stopped on the source.
    var freezeTime: Double?
    var problem: String?
}

/// A way to bring a unit from one host to another.
protocol Mover {
    /// Prepares both hosts before the unit starts on the first.
    func prepare(_ hosts: [LabHost], address: String) throws
    /// What must happen before `systemctl start` on the first host.
    func beforeStart(on host: LabHost, address: String) throws
    func move(_ unit: String, address: String, from source: LabHost, to destination: LabHost) throws -> MoveReport
}

func now() -> Double { Date().timeIntervalSince1970 }

/// The real thing: one call on the bus of the source.
struct MigrateUnit: Mover {
    private static let name = "org.mobilityd1"
    private static let interface = "org.mobilityd1.Migration"

    func prepare(_ hosts: [LabHost], address: String) throws {
        for host in hosts
        where try host.run("systemctl", "is-active", "mobilityd", allowFailure: true).trimmed != "active" {
            let log = try host.run("journalctl", "-u", "mobilityd", "--no-pager", "-n", "30", allowFailure: true).output
            throw LabError("mobilityd does not run on \(host.name):\n\(log)")
        }
    }

    func beforeStart(on host: LabHost, address: String) {}

    func move(
        _ unit: String, address: String, from source: LabHost, to destination: LabHost
    ) throws -> MoveReport {
        let monitor = try source.spawn(
            "busctl", "--json=short", "monitor", "--match",
            "type='signal',interface='org.freedesktop.DBus.Properties',path_namespace='/org/mobilityd1/migration'")
        defer { monitor.kill() }
        try waitUntil("busctl monitor") { monitor.errorOutput.contains("Monitoring") }
        let called = now()
        let answer = try source.run(
            "busctl", "call", Self.name, "/org/mobilityd1", "org.mobilityd1.Manager", "MigrateUnit", "ssa{sv}", unit,
            destination.name, "0")
        let path = answer.trimmed.split(separator: "\"").last.map(String.init) ?? ""
        guard path.hasPrefix("/org/mobilityd1/migration/") else {
            throw LabError("MigrateUnit answered \(answer.trimmed), not an object path")
        }
        var phase = ""
        do {
            try waitUntil("end of \(path)", timeout: .seconds(90), interval: .milliseconds(20)) {
                phase = try property("Phase", of: path, on: source)
                return ["done", "rolled-back", "failed"].contains(phase)
            }
        } catch {
            throw LabError("\(error); phase \(phase)\n\(logs([source, destination]))")
        }
        var report = MoveReport()
        report.frozenMilliseconds = (Double(try property("FrozenUSec", of: path, on: source)) ?? 0) / 1000
        _ = try? waitUntil("last signal", timeout: .seconds(1)) {
            report.phases = Self.phases(monitor.output, path: path)
            return report.phases.last?.name == phase
        }
        report.freezeTime = report.phases.first { $0.name == "frozen" }?.time
        report.phases.insert(("called", called), at: 0)
        if phase != "done" {
            let why = (try? property("Error", of: path, on: source)) ?? "no reason given"
            report.problem = "the move \(source.name)→\(destination.name) ended as \(phase): \(why)"
            say(logs([source, destination]))
        }
        return report
    }

    private func property(_ name: String, of path: String, on host: LabHost) throws -> String {
        let text = try host.run("busctl", "get-property", Self.name, path, Self.interface, name).trimmed
        return String(text.drop { $0 != " " }.dropFirst()).trimmingCharacters(in: ["\""])
    }

    private func logs(_ hosts: [LabHost]) -> String {
        hosts.map { host in
            let log = try? host.run("journalctl", "-u", "mobilityd", "--no-pager", "-n", "40", "-o", "short-precise")
            return "--- mobilityd on \(host.name)\n\(log?.output ?? "no journal")"
        }.joined(separator: "\n")
    }

    /// Changes of Phase in the output of busctl monitor, with the bus's own time stamps.
    static func phases(_ output: String, path: String) -> [(name: String, time: Double)] {
        output.split(separator: "\n").compactMap { line in
            guard let message = try? JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any],
                message["path"] as? String == path, let time = message["timestamp-realtime"] as? Double,
                let payload = message["payload"] as? [String: Any], let data = payload["data"] as? [Any],
                data.count > 1, let changed = data[1] as? [String: Any],
                let phase = (changed["Phase"] as? [String: Any])?["data"] as? String
            else { return nil }
            return (phase, time / 1e6)
        }
    }
}

/// The counter-example: the service stops here and starts there, as without mobilityd.
struct RestoreByStart: Mover {
    func prepare(_ hosts: [LabHost], address: String) {}

    func beforeStart(on host: LabHost, address: String) throws {
        try host.run("ip", "address", "add", "\(address)/32", "dev", "eth0", "noprefixroute")
    }

    func move(
        _ unit: String, address: String, from source: LabHost, to destination: LabHost
    ) throws -> MoveReport {
        var report = MoveReport()
        let start = now()
        report.freezeTime = start
        report.phases.append(("stop on \(source.name)", start))
        try source.run("systemctl", "stop", unit)
        try source.run("ip", "address", "del", "\(address)/32", "dev", "eth0")
        try beforeStart(on: destination, address: address)
        report.phases.append(("start on \(destination.name)", now()))
        try destination.run("systemctl", "start", unit)
        report.phases.append(("started", now()))
        report.frozenMilliseconds = (now() - start) * 1000
        return report
    }
}
