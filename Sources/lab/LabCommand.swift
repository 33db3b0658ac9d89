import ArgumentParser
import Glibc
import Lab

@main
struct LabCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "lab",
        abstract: "Hosts with their own systemd, and clients, on one bridge: the test bed of mobilityd.",
        discussion: """
            Each host is a real systemd in namespaces of its own on an overlay of this machine's files: every program \
            and unit of the machine is there, and nothing of the machine is touched. `lab down` removes all of it.
            """,
        subcommands: [Up.self, Down.self, Exec.self, Shell.self, Status.self])
}

struct LabName: ParsableArguments {
    @Option(name: .long, help: "The lab; labs of different names live side by side.")
    var name = "default"
}

struct Up: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Boot hosts and clients.")

    @OptionGroup var lab: LabName
    @Option(help: "Hosts, by name, separated by commas.")
    var hosts = "a,b"
    @Option(help: "Clients, plain network namespaces, separated by commas.")
    var clients = "c"
    @Flag(help: "Hosts without mobilityd.")
    var bare = false
    @Option(help: "Install this tree, made by `make install DESTDIR=`, instead of the programs beside `lab`.")
    var tree: String?

    func run() throws {
        let clock = ContinuousClock()
        let start = clock.now
        let product: Product = bare ? .none : tree.map { .tree($0) } ?? .built
        let up = try Lab.up(hosts: names(hosts), clients: names(clients), name: lab.name, product: product)
        try up.keep()
        let milliseconds = (clock.now - start) / .milliseconds(1)
        print("lab \(lab.name) is up after \(Int(milliseconds)) ms")
        try printTable(up)
    }

    private func names(_ list: String) -> [String] { list.split(separator: ",").map(String.init) }
}

struct Down: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Take a lab down, whatever is left of it.")

    @OptionGroup var lab: LabName
    @Flag(help: "All labs.")
    var all = false

    func run() { for name in all ? Lab.existing : [lab.name] { Lab.down(name: name) } }
}

struct Exec: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Run a command on a member; its exit status is passed through.")

    @OptionGroup var lab: LabName
    @Argument(help: "A host or a client.")
    var member: String
    @Argument(parsing: .captureForPassthrough, help: "The command, behind `--` or without it.")
    var command: [String]

    func run() throws {
        let words = command.first == "--" ? Array(command.dropFirst()) : command
        guard !words.isEmpty else { throw ValidationError("which command?") }
        try Lab.attach(name: lab.name)[member].replaceProcess(with: words)
    }
}

struct Shell: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "A shell on a member.")

    @OptionGroup var lab: LabName
    @Argument(help: "A host or a client.")
    var member: String

    func run() throws { try Lab.attach(name: lab.name)[member].replaceProcess(with: ["/bin/bash", "-l"]) }
}

struct Status: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Show the labs and their members.")

    func run() throws {
        let names = Lab.existing
        if names.isEmpty { print("no lab is up") }
        for name in names {
            print("lab \(name)")
            do { try printTable(Lab.attach(name: name)) } catch { print("  \(error)") }
        }
    }
}

/// One line a member.
func printTable(_ lab: Lab) throws {
    func row(_ cells: [String]) {
        let widths = [12, 8, 14, 20, 9]
        let padded = zip(cells, widths).map { $0 + String(repeating: " ", count: max(1, $1 - $0.count)) }
        print("  " + padded.joined() + (cells.last ?? ""))
    }
    row(["MEMBER", "KIND", "IPV4", "IPV6", "PID 1", "STATE"])
    for member in lab.members {
        let kind = member.hasSystemd ? "host" : "client"
        let state = try !member.isUp ? "down" : member.hasSystemd ? systemState(member) : "-"
        row([member.name, kind, member.address, member.address6, member.initPid.map(String.init) ?? "-", state])
    }
}

/// systemd's own word, and what has failed.
func systemState(_ host: LabHost) throws -> String {
    let state = try host.run("systemctl", "is-system-running", allowFailure: true).trimmed
    let failed = state == "degraded" ? try host.failedUnits().joined(separator: " ") : ""
    return failed.isEmpty ? state : "\(state): \(failed)"
}
