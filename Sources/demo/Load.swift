import Foundation
import Glibc
import Lab

/// A labload on the client: its lines of JSON, and the signals that steer it.
struct Load {
    /// One line; each program fills in what it knows.
    struct Line: Decodable {
        let event: String
        let bytes, total, requests, failed, resets, reconnects: Int?
        let longest_silence_ms, longest_total_silence_ms, window_silence_ms: Double?
        let hash_ok: Bool?
        let error: String?
    }

    let process: LabProcess

    init(_ arguments: [String], on client: LabHost) throws {
        guard let directory = Bundle.main.executableURL?.deletingLastPathComponent() else {
            throw LabError("the demo cannot tell where its own program lies")
        }
        process = try client.spawn([directory.appendingPathComponent("labload").path] + arguments)
    }

    /// Every whole line so far.
    var lines: [Line] {
        process.output.split(separator: "\n").compactMap {
            try? JSONDecoder().decode(Line.self, from: Data($0.utf8))
        }
    }

    /// The latest line, or an error with what the program said instead.
    func latest() throws -> Line {
        guard let line = lines.last else {
            throw LabError("labload said nothing; on its standard error: \(process.errorOutput)")
        }
        return line
    }

    /// Asks for the window since the last call, and starts a new one.
    func window() throws -> Line {
        let before = lines.count { $0.event == "window" }
        try process.signal(SIGUSR1)
        try waitUntil("report of `\(process.command)`", timeout: .seconds(5)) {
            guard process.isRunning else { throw LabError("it has ended: \(process.output.suffix(400))") }
            return lines.count { $0.event == "window" } > before
        }
        guard let line = lines.last(where: { $0.event == "window" }) else { throw LabError("no window") }
        return line
    }

    /// The totals, after the program's end.
    func end(timeout: Duration) throws -> Line {
        try process.wait(timeout: timeout)
        guard let line = lines.last, line.event == "end" else {
            throw LabError("`\(process.command)` ended without totals: \(process.errorOutput)")
        }
        return line
    }
}
