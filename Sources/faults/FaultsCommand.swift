import ArgumentParser
import Foundation
import Glibc
import Kernel
import Lab

@main
struct FaultsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "faults",
        abstract: "Put a fault into a move at each point of the protocol, on either side, and see what comes of it.",
        discussion: """
            Boots two hosts and a client in a lab of its own. A service that checks itself moves back and forth; at \
            each point the daemon is held, the fault is put in, and the service must come to run exactly once, with \
            every connection, and move again. The exit status is 0 only if it always did.
            """)

    @Flag(help: "Ten cells, in less than a minute.")
    var quick = false
    @Option(help: "Only cells whose title contains this, for example `source.frozen` or `SIGKILL of mobility-arrive`.")
    var only: [String] = []
    @Flag(help: "Print the cells and end.")
    var list = false
    @Flag(help: "Write docs/faults.md and docs/measurements.json.")
    var write = false
    @Option(help: "Name of the lab.")
    var name = "faults"
    @Option(help: "How many labs work side by side.")
    var jobs = 1

    func run() throws {
        let cells = (quick ? Plan.quick : Plan.all).filter { cell in only.allSatisfy(cell.title.contains) }
        if list { return cells.forEach { say($0.title) } }
        let start = Clock.monotonic
        let results = try Course(cells: cells, name: name, jobs: jobs).run()
        let report = Report(results: results, seconds: Int((Clock.monotonic - start) / 1_000_000_000))
        say(report.summary)
        if write { try report.write() }
        if results.contains(where: \.outcome.isBad) || results.count < cells.count { throw ExitCode.failure }
    }
}

/// Prints a line at once: whoever follows through a pipe sees it when it happens.
func say(_ text: String) { FileHandle.standardOutput.write(Data((text + "\n").utf8)) }
