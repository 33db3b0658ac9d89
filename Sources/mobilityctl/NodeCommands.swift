import ArgumentParser
import Peering

/// Enrolment: only files below /etc/mobilityd, so it works without the daemon.
struct NodeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "node", abstract: "Create this node's identity and enrol others.",
        discussion: "Follow with `systemctl reload mobilityd`.",
        subcommands: [Init.self, Add.self, Remove.self, List.self])

    struct RootOption: ParsableArguments {
        @Option(help: ArgumentHelp("Work on the system below this directory.", valueName: "dir"))
        var root = ""

        /// Without a slash at the end, as paths are appended.
        var directory: String {
            var path = Substring(root)
            while path.hasSuffix("/") { path.removeLast() }
            return String(path)
        }
    }

    /// Runs `body` and prints a failure as what it is.
    static func run(_ body: () throws(PeeringError) -> Void) throws {
        do throws(PeeringError) {
            try body()
        } catch {
            Terminal.complain("\(error)")
            throw ExitCode(1)
        }
    }

    struct Init: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "init", abstract: "Create this node's key and certificate.")

        @Option(help: "The node's name; without it, Name= of mobilityd.conf or the host's name.") var name: String?
        @OptionGroup var root: RootOption

        func run() throws {
            try NodeCommand.run { () throws(PeeringError) in
                let directory = root.directory
                let chosen: String
                if let name { chosen = name } else { chosen = try NodeSettings.load(root: directory).name }
                try Enrolment.createIdentity(root: directory, name: chosen)
                print("\(directory)/etc/mobilityd/node.crt")
            }
        }
    }

    struct Add: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "add", abstract: "Trust another node: its name, address and certificate.")

        @Argument(help: "The node's name.") var name: String
        @Argument(help: "Its numeric address.") var address: String
        @Argument(help: "Its certificate, a copy of its /etc/mobilityd/node.crt.", completion: .file())
        var certificate: String
        @Option(help: "The port of its daemon.") var port = NodeSettings.defaultPort
        @OptionGroup var root: RootOption

        func run() throws {
            try NodeCommand.run { () throws(PeeringError) in
                try Enrolment.addPeer(
                    root: root.directory, name: name, address: address, port: port, certificatePath: certificate)
            }
        }
    }

    struct Remove: ParsableCommand {
        static let configuration = CommandConfiguration(commandName: "remove", abstract: "Trust a node no more.")

        @Argument(help: "The node's name.") var name: String
        @OptionGroup var root: RootOption

        func run() throws {
            try NodeCommand.run { () throws(PeeringError) in
                try Enrolment.removePeer(root: root.directory, name: name)
            }
        }
    }

    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "list", abstract: "List the enrolled nodes from their files.")

        @OptionGroup var root: RootOption
        @OptionGroup var output: OutputOptions

        private struct Row: Encodable {
            let name: String
            let address: String
            let port: UInt16
            let fingerprint: String
        }

        func run() throws {
            var rows: [Row] = []
            try NodeCommand.run { () throws(PeeringError) in
                rows = try Enrolment.peers(root: root.directory).map {
                    Row(name: $0.name, address: $0.address, port: $0.port, fingerprint: $0.fingerprint)
                }
            }
            if try output.printJSON(rows) { return }
            let table = Table(
                headings: ["NODE", "ADDRESS", "PORT", "FINGERPRINT"],
                rows: rows.map { [$0.name, $0.address, "\($0.port)", $0.fingerprint] })
            table.print(legend: !output.noLegend)
        }
    }
}
