import ArgumentParser
import Foundation
import MobilityClient

/// What `--json=` may be, as in systemd's programs.
enum JSONMode: String, CaseIterable, ExpressibleByArgument {
    case off
    case short
    case pretty
}

/// The options that every command has.
struct OutputOptions: ParsableArguments {
    @Option(help: "Print JSON: off, short or pretty; --json alone is pretty.")
    var json: JSONMode = .off

    @Flag(help: "Print no headings and no hints.")
    var noLegend = false

    @Flag(help: "For scripts written for systemd's programs: nothing is ever paged.")
    var noPager = false

    @Flag(help: "Never let polkit ask for a password.")
    var noAskPassword = false

    /// Prints `value` if JSON is wanted; false otherwise.
    func printJSON(_ value: some Encodable) throws -> Bool {
        if json == .off { return false }
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        if json == .pretty { encoder.outputFormatting.insert(.prettyPrinted) }
        print(String(decoding: try encoder.encode(value), as: UTF8.self))
        return true
    }

    /// Runs `body` with a connection; a failure is printed with its remedy and becomes the exit status.
    func withManager(_ body: (MobilityManager) throws -> Void) throws {
        do {
            try body(try MobilityManager(allowsInteraction: !noAskPassword && isatty(0) == 1))
        } catch let error as MobilityError {
            Terminal.complain("\(error)", remedy: noLegend ? "" : error.remedy)
            throw ExitCode(error.exitStatus)
        }
    }
}

/// What a terminal can show.
enum Terminal {
    static let isInteractive = isatty(1) == 1
    private static let hasColor = isInteractive && getenv("NO_COLOR") == nil

    enum Color: String {
        case green = "32"
        case yellow = "33"
        case red = "31"
        case gray = "90"
        case bold = "1"
    }

    static func paint(_ text: String, _ color: Color) -> String {
        hasColor ? "\u{1b}[\(color.rawValue)m\(text)\u{1b}[0m" : text
    }

    /// Overwrites the present line.
    static func replaceLine(_ text: String) {
        print("\r\u{1b}[K\(text)", terminator: "")
        flush()
    }

    static func clearLine() { replaceLine("") }

    static func flush() { fflush(nil) }

    static func complain(_ text: String, remedy: String = "") {
        let lines = "mobilityctl: \(text)\n" + (remedy.isEmpty ? "" : "  \(remedy)\n")
        FileHandle.standardError.write(Data(lines.utf8))
    }
}

/// A table with headings, in columns as wide as their content.
struct Table {
    let headings: [String]
    var rows: [[String]] = []

    /// The colour of a cell, by row and column; columns are measured without it.
    var color: (Int, Int) -> Terminal.Color? = { _, _ in nil }

    func print(legend: Bool) {
        let all = legend ? [headings] + rows : rows
        let widths = headings.indices.map { column in all.map { $0[column].count }.max() ?? 0 }
        for (index, row) in all.enumerated() {
            let isHeading = legend && index == 0
            var line = ""
            for (column, cell) in row.enumerated() {
                let tint = isHeading ? .bold : color(legend ? index - 1 : index, column)
                line += tint.map { Terminal.paint(cell, $0) } ?? cell
                if column < row.count - 1 { line += String(repeating: " ", count: widths[column] - cell.count + 1) }
            }
            Swift.print(line)
        }
    }
}

/// Numbers for people.
enum Format {
    /// 1024-based, like systemd: `17.3M`.
    static func bytes(_ count: UInt64) -> String {
        var value = Double(count)
        for unit in ["B", "K", "M", "G", "T"] {
            if value < 1024 || unit == "T" {
                return unit == "B" ? "\(count)B" : String(format: "%.1f%@", value, unit)
            }
            value /= 1024
        }
        return "\(count)B"
    }

    /// `870 µs`, `12.3 ms`, `1.25 s`.
    static func duration(_ microseconds: UInt64) -> String {
        switch microseconds {
        case ..<1000: "\(microseconds) µs"
        case ..<1_000_000: String(format: "%.1f ms", Double(microseconds) / 1000)
        default: String(format: "%.2f s", Double(microseconds) / 1_000_000)
        }
    }

    static func stateColor(_ state: String) -> Terminal.Color? {
        switch state {
        case "local", "done", "online", "self": .green
        case "departing", "arriving", "rolled-back", "cancelled": .yellow
        case "failed", "offline": .red
        case "remote", "unknown": .gray
        default: nil
        }
    }
}
