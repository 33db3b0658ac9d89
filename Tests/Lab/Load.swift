import Foundation
import Glibc

/// labload, or a program of Tests/Programs that speaks like it, on a client: its lines of JSON, and the signals that
/// steer it.
public struct Load {
    /// One line; each program fills in what it knows.
    public struct Line: Decodable {
        public let event: String
        public let bytes, total, requests, failed, resets, reconnects: Int?
        public let longest_silence_ms, longest_total_silence_ms, window_silence_ms: Double?
        public let hash_ok: Bool?
        public let error: String?
    }

    public let process: LabProcess

    /// labload with these arguments, beside the calling program.
    public init(_ arguments: [String], on client: LabHost) throws {
        guard let directory = Bundle.main.executableURL?.deletingLastPathComponent() else {
            throw LabError("this program cannot tell where it lies")
        }
        try self.init(program: directory.appendingPathComponent("labload").path, arguments, on: client)
    }

    /// Another program.
    public init(program: String, _ arguments: [String], on client: LabHost) throws {
        process = try client.spawn([program] + arguments)
    }

    /// Every whole line so far.
    public var lines: [Line] {
        process.output.split(separator: "\n").compactMap {
            try? JSONDecoder().decode(Line.self, from: Data($0.utf8))
        }
    }

    /// The latest line, or an error with what the program said instead.
    public func latest() throws -> Line {
        guard let line = lines.last else {
            throw LabError("labload said nothing; on its standard error: \(process.errorOutput)")
        }
        return line
    }

    /// Asks for the window since the last call, and starts a new one.
    public func window() throws -> Line {
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
    public func end(timeout: Duration) throws -> Line {
        try process.wait(timeout: timeout)
        guard let line = lines.last, line.event == "end" else {
            throw LabError("`\(process.command)` ended without totals: \(process.errorOutput)")
        }
        return line
    }
}
