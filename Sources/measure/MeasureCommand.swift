import ArgumentParser
import Foundation
import Lab

@main
struct MeasureCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "measure",
        abstract: "Measure what clients see while services move again and again.",
        discussion: """
            Each case boots a lab of its own with two hosts and a client, moves a service under load, and reports what \
            the client's own kernel counted. The exit status is 0 only if no case lost anything.
            """)

    @Option(help: "How often each service moves.") var moves = 20
    @Option(help: "Only cases whose name contains this.") var only: String?
    @Option(help: "Name of the lab.") var name = "measure"
    @Flag(help: "Write docs/measurements.md and docs/measurements.json.") var write = false

    func run() throws {
        var table: [Figures] = []
        for subject in Case.all where only.map(subject.name.contains) ?? true {
            let lab = try Lab.up(hosts: ["a", "b"], clients: ["c"], name: name, product: .built)
            defer { lab.down() }
            let figures = try Run(lab: lab, subject: subject, moves: moves).figures()
            table.append(figures)
            say(Self.row(figures))
        }
        let body = Self.body(table)
        say("\n" + body)
        if write {
            try Measurements.write("continuity", table)
            try Measurements.write(section: "Continuity", "\(try Measurements.circumstances())\n\n\(body)")
        }
        if table.contains(where: { $0.resets + $0.failed + $0.rto > 0 }) { throw ExitCode.failure }
    }

    private static func row(_ f: Figures) -> String {
        let numbers = [
            "IPv\(f.family)", "\(f.moves)", "\(f.resets)", "\(f.failed)", "\(f.rto)",
            String(format: "%.1f", f.retransmitted_median), String(format: "%.0f", f.silence_ms_max),
            String(format: "%.1f", f.frozen_ms_median),
        ]
        return "| \(f.case) | \(numbers.joined(separator: " | ")) |"
    }

    private static func body(_ table: [Figures]) -> String {
        let head = """
            | case | family | moves | resets | failed | rto | retransmitted, median a move | silence, longest, ms \
            | frozen, median, ms |
            |---|---|---|---|---|---|---|---|---|
            """
        let remarks = Set(table.map { "- \($0.case): \($0.remark)." }).sorted()
        return ([head] + table.map(row) + [""] + remarks).joined(separator: "\n")
    }
}

/// One line at once, also where standard output is a file.
func say(_ text: String) { FileHandle.standardOutput.write(Data((text + "\n").utf8)) }
