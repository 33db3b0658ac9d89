import ArgumentParser
import MobilityClient

/// The options of a move.
struct MoveOptions: ParsableArguments {
    @Flag(help: "Go on although connections that are not on a virtual address will break.")
    var allowLoss = false

    @Flag(help: "Do everything up to the freeze, then roll back.")
    var dryRun = false

    @Option(help: ArgumentHelp("Downtime to aim at, milliseconds.", valueName: "ms"))
    var downtimeTarget: UInt64?

    var options: MigrateOptions {
        var options = MigrateOptions()
        options.allowLoss = allowLoss
        options.dryRun = dryRun
        options.downtimeTargetMicroseconds = downtimeTarget.map { min($0, UInt64.max / 1000) * 1000 }
        return options
    }
}

struct MigrateCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "migrate", abstract: "Move a service to another node and show how it goes.",
        discussion: "Interrupting the command leaves the migration running; `mobilityctl cancel` stops it.")

    @Argument(help: "The unit.") var unit: String
    @Argument(help: "The node it moves to.") var node: String
    @Flag(help: "Print the migration's number and return at once.") var noBlock = false
    @OptionGroup var move: MoveOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        try output.withManager { manager in
            try manager.subscribe()
            let path = try manager.migrate(unit: unit, to: node, options: move.options)
            if noBlock {
                let status = try manager.migration(path)
                if try !output.printJSON(status) { print(status.id) }
                return
            }
            try Follower(manager: manager, output: output).follow(path)
        }
    }

    /// The outcome or the state in one line.
    static func summary(_ status: MigrationStatus) -> String {
        switch status.result {
        case "": return progress(status)
        case "done": break
        default: return "\(status.result)\(status.error.isEmpty ? "" : ": \(status.error)")"
        }
        let parts = status.downtimeParts.map { "\($0.name) \(Format.duration($0.microseconds))" }
        return "done, frozen \(Format.duration(status.frozenMicroseconds)), "
            + "downtime \(Format.duration(status.downtimeMicroseconds))"
            + (parts.isEmpty ? "" : " (\(parts.joined(separator: ", ")))")
    }

    /// The present state in one line.
    static func progress(_ status: MigrationStatus) -> String {
        var text = status.phase
        if status.round > 0 { text += ", round \(status.round)" }
        if status.bytesTotal > 0 {
            text += ", \(Format.bytes(status.bytesSent)) of \(Format.bytes(status.bytesTotal))"
        }
        if status.predictedDowntimeMicroseconds > 0 && status.frozenMicroseconds == 0 {
            text += ", downtime about \(Format.duration(status.predictedDowntimeMicroseconds))"
        }
        if status.frozenMicroseconds > 0 { text += ", frozen \(Format.duration(status.frozenMicroseconds))" }
        return text
    }
}

/// Shows a migration until its end.
struct Follower {
    let manager: MobilityManager
    let output: OutputOptions

    private var isLive: Bool { Terminal.isInteractive && output.json == .off }

    /// Returns when the migration is done; throws its error when it ended otherwise. Needs a subscription.
    func follow(_ path: String) throws {
        var status = try manager.migration(path)
        if output.json == .off && !output.noLegend {
            print("Migration \(status.id): \(status.unit) from \(status.source) to \(status.destination)")
        }
        var isOver = false
        while !isOver {
            if isLive { Terminal.replaceLine(MigrateCommand.progress(status)) }
            // Counters are not announced, so they are read now and then; phases and the end are. Once it has ended,
            // only what is still on its way is waited for.
            let signals = try manager.waitForSignals(milliseconds: isLive || status.isFinished ? 100 : 1000)
            for signal in signals where show(signal, path) { isOver = true }
            if status.isFinished && signals.isEmpty { isOver = true }
            status = try manager.migration(path)
        }
        if isLive { Terminal.clearLine() }
        if try !output.printJSON(status), status.result == "done" {
            print("\(status.unit) runs on \(status.destination): \(MigrateCommand.summary(status))")
        }
        // Answers at once, with the error of the table if there is one.
        try manager.wait(path)
    }

    /// Prints what the signal says about the migration at `path`; true if that is its end.
    private func show(_ signal: MobilitySignal, _ path: String) -> Bool {
        switch signal {
        case .migrationRemoved(_, path, _, _): return true
        case .logMessage(path, _, let line): printLine(line)
        case .propertiesChanged(path, _, let changed):
            if !isLive, let phase = changed["Phase"]?.text { printLine(phase) }
        default: break
        }
        return false
    }

    private func printLine(_ line: String) {
        if output.json != .off { return }
        if isLive { Terminal.clearLine() }
        print(line)
        Terminal.flush()
    }
}

struct DrainCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "drain", abstract: "Move every service away from a node, one after the other in the display.")

    @Argument(help: "The node to be emptied.") var node: String
    @Option(help: "The node that takes the services; without it, any that passes the checks.") var to: String?
    @Flag(help: "Print the migrations' numbers and return at once.") var noBlock = false
    @OptionGroup var move: MoveOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        try output.withManager { manager in
            try manager.subscribe()
            var options = move.options
            options.destination = to
            let paths = try manager.drain(node: node, options: options)
            if noBlock {
                let all = try paths.map { try manager.migration($0) }
                if try !output.printJSON(all) { all.forEach { print($0.id) } }
                return
            }
            if paths.isEmpty && output.json == .off && !output.noLegend { print("\(node) runs nothing that can move.") }
            var failure: MobilityError?
            for path in paths {
                do {
                    try Follower(manager: manager, output: output).follow(path)
                } catch let error as MobilityError {
                    // The others go on; the first failure decides the exit status.
                    if failure != nil { Terminal.complain("\(error)") }
                    failure = failure ?? error
                }
            }
            if let failure { throw failure }
        }
    }
}

struct CancelCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cancel", abstract: "Roll a migration back; the service runs on where it was.")

    @Argument(help: "The migration's number.") var id: UInt32
    @OptionGroup var output: OutputOptions

    func run() throws {
        try output.withManager { try $0.cancel(MobilityManager.migrationPath(id)) }
    }
}

struct WaitCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "wait", abstract: "Wait for a migration's end; the exit status is that of the migration.")

    @Argument(help: "The migration's number.") var id: UInt32
    @OptionGroup var output: OutputOptions

    func run() throws {
        try output.withManager { manager in
            let path = MobilityManager.migrationPath(id)
            do {
                try manager.wait(path)
            } catch {
                if let status = try? manager.migration(path) { _ = try output.printJSON(status) }
                throw error
            }
            let status = try manager.migration(path)
            if try !output.printJSON(status) { print(MigrateCommand.summary(status)) }
        }
    }
}

struct ReloadCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "reload", abstract: "Have the daemon read its configuration, nodes and annotations again.")

    @OptionGroup var output: OutputOptions

    func run() throws {
        try output.withManager { try $0.reload() }
    }
}
