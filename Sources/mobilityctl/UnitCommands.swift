import ArgumentParser
import MobilityClient

/// What the drop-ins of annotated units call. The exit statuses follow `ExecCondition=` of systemd.service(5): 1 to 254
/// mean that the unit is skipped, 255 that it failed.
struct UnitCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "unit", abstract: "For the drop-ins of units.", shouldDisplay: false,
        subcommands: [MayStart.self, Claim.self, Release.self])

    static let failed: Int32 = 255

    /// Runs `body`; any failure ends with 255, so that systemd takes it for one.
    static func run(_ body: (MobilityManager) throws(MobilityError) -> Void) throws {
        do throws(MobilityError) {
            try body(try MobilityManager())
        } catch {
            Terminal.complain("\(error)", remedy: error.remedy)
            throw ExitCode(failed)
        }
    }

    struct MayStart: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "may-start", abstract: "Exit with 0 if the unit may start on this node, with 1 if not.")

        @Argument(help: "The unit.") var unit: String

        func run() throws {
            var answer: StartAnswer?
            try UnitCommand.run { manager throws(MobilityError) in answer = try manager.mayStart(unit: unit) }
            guard let answer, !answer.allowed else { return }
            Terminal.complain("\(unit) must not start here: \(answer.why)")
            throw ExitCode(1)
        }
    }

    struct Claim: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "claim", abstract: "Put the unit's addresses on this host.")

        @Argument(help: "The unit.") var unit: String

        func run() throws {
            try UnitCommand.run { manager throws(MobilityError) in try manager.claimAddress(unit: unit) }
        }
    }

    struct Release: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "release", abstract: "Take the unit's addresses off this host; may be repeated.")

        @Argument(help: "The unit.") var unit: String

        func run() throws {
            try UnitCommand.run { manager throws(MobilityError) in try manager.releaseAddress(unit: unit) }
        }
    }
}
