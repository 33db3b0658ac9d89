import ArgumentParser
import Foundation
import Lab

@main
struct DemoCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "demo",
        abstract: "Move Debian's nginx to another host and back, under a download and 50 kept-alive connections.",
        discussion: """
            Boots two hosts and a client in a lab of its own, checks that every connection, the process itself and \
            its pid survive both moves, and prints the figures as one JSON object on its last line. \
            The exit status is 0 only if no connection was reset, none ran into a timeout, and nobody waited long.
            """)

    @Flag(help: "Stop on one host and start on the other instead of a move. The demo must fail then.")
    var restoreByStart = false
    @Option(help: "Name of the lab.")
    var name = "demo"
    @Option(help: "Pace of the download in bytes a second.")
    var rate = 3_000_000
    @Option(help: "Longest time in milliseconds that a client may wait for an answer.")
    var silenceLimit = 250.0

    func run() throws {
        say("Booting hosts a and b and client c …")
        let lab = try Lab.up(
            hosts: ["a", "b"], clients: ["c"], name: name, product: restoreByStart ? .none : .built)
        defer { lab.down() }
        let mover: any Mover = restoreByStart ? RestoreByStart() : MigrateUnit()
        var demo = try Demo(lab: lab, mover: mover, rate: rate, silenceLimit: silenceLimit)
        let outcome = try demo.run()
        lab.down()
        for problem in outcome.problems { say("FAILED: \(problem)") }
        say(outcome.json)
        if !outcome.problems.isEmpty { throw ExitCode.failure }
    }
}
