import ArgumentParser
import MobilityClient

struct ResolveCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "resolve", abstract: "Decide where a service runs whose destination does not answer.",
        discussion: """
            A move is in doubt while the destination, told to commit, has not answered; it ends by itself when the \
            wire heals. Only if that host will not come back, say where the service is to run. First make sure that \
            it is off, or fenced so that it cannot come back without a new start: else two copies may run.
            """)

    enum Choice: String, EnumerableFlag {
        case keep, giveUp

        static func help(for value: Self) -> ArgumentHelp? {
            switch value {
            case .keep: "The service runs on here."
            case .giveUp: "The service ends here."
            }
        }
    }

    @Argument(help: "The unit.") var unit: String
    @Flag var choice: Choice
    @Flag(help: "You have made sure that the other host is off or fenced.") var otherHostIsOff = false
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard otherHostIsOff else {
            throw ValidationError(
                "make sure that the other host is off, or fenced so that it cannot come back without a new start, "
                    + "and say so with --other-host-is-off")
        }
    }

    func run() throws {
        try output.withManager { manager in
            try manager.resolve(unit: unit, keep: choice == .keep, otherHostIsOff: otherHostIsOff)
            let status = try manager.service(unit: unit)
            if try !output.printJSON(status) { print("\(unit) is \(status.state) on \(status.node)") }
        }
    }
}
