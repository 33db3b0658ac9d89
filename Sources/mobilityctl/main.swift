import ArgumentParser
import BusContract

struct Mobilityctl: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "mobilityctl",
        abstract: "Query and move services between hosts.",
        version: "mobilityctl \(mobilityVersion)",
        subcommands: [
            ListCommand.self, StatusCommand.self, CheckCommand.self, MigrateCommand.self, CancelCommand.self,
            WaitCommand.self, ResolveCommand.self, NodesCommand.self, DrainCommand.self, ReloadCommand.self,
            NodeCommand.self,
            UnitCommand.self,
        ],
        defaultSubcommand: ListCommand.self)
}

/// `--json` alone means `--json=pretty`, as an option of ArgumentParser cannot.
func normalized(_ arguments: [String]) -> [String] {
    var result: [String] = []
    for (index, argument) in arguments.enumerated() {
        let next = index + 1 < arguments.count ? arguments[index + 1] : ""
        let isAlone = argument == "--json" && JSONMode(rawValue: next) == nil
        result.append(isAlone ? "--json=pretty" : argument)
    }
    return result
}

Mobilityctl.main(normalized(Array(CommandLine.arguments.dropFirst())))
