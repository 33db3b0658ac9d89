import CKernel
import Glibc
import Kernel
import Synchronization

/// A member of a lab: a host with its own systemd, or a client that is only a network namespace.
public struct LabHost: Sendable {
    public let name: String
    /// IPv4 address on eth0, in 10.10.10.0/24.
    public let address: String
    /// IPv6 address on eth0, in fd10:10:10::/64.
    public let address6: String
    /// False for a client, which has the machine's files and processes and only its own network.
    public let hasSystemd: Bool
    /// The host's PID 1 in the numbering of the machine; nil for a client.
    public var initPid: Int32? { identity?.pid }

    /// That of the latest boot; every copy of this value follows a reboot.
    var identity: ProcessIdentity? { boot.identity.withLock { $0 } }
    let boot: Boot
    let paths: LabPaths
    /// The host's root of the cgroup tree, as the machine sees it.
    public let cgroup: String
    /// Where commands run by hand live: systemd's own groups beside it stay undisturbed.
    let commandGroup: String

    init(_ member: LabMember, paths: LabPaths, cgroup: String) throws {
        name = member.name
        address = member.address
        address6 = member.address6
        hasSystemd = member.kind == .host
        self.paths = paths
        let group = "\(cgroup)/\(member.name)"
        self.cgroup = group
        commandGroup = member.kind == .host ? group + "/lab.exec" : group
        let identity = member.kind == .host ? ProcessIdentity(recordedAt: paths.initProcess(member.name)) : nil
        boot = Boot(identity)
        if member.kind == .host, identity == nil {
            throw LabError("host \(member.name) of lab \(paths.name) has not booted; `lab down`, then `lab up`")
        }
    }

    /// Which PID 1 a host has.
    final class Boot: Sendable {
        let identity: Mutex<ProcessIdentity?>
        init(_ identity: ProcessIdentity?) { self.identity = Mutex(identity) }
    }

    /// True while the host's PID 1 runs; a client is always up.
    public var isUp: Bool { identity?.isAlive ?? true }

    /// The arguments that run `command` inside, in all namespaces of the member and in its cgroup.
    public func enterArguments(_ command: [String]) throws -> [String] {
        // The group comes first: in the host's own cgroup namespace its path would be another.
        let join = ["/bin/sh", "-c", "echo 0 > \"$0\" && exec \"$@\"", commandGroup + "/cgroup.procs"]
        guard let identity else {
            return join + ["/usr/bin/nsenter", "--net=\(paths.network(name))", "--"] + command
        }
        guard identity.isAlive else { throw LabError("host \(name) is down: its PID 1 (\(identity.pid)) has ended") }
        return join + [
            "/usr/bin/nsenter", "--target", String(identity.pid), "--mount", "--uts", "--ipc", "--net", "--pid",
            "--cgroup", "--time", "--root", "--wd", "--",
        ] + command
    }

    /// Runs a command to its end and returns what it said; throws if it fails, unless `allowFailure`.
    @discardableResult
    public func run(
        _ command: String..., allowFailure: Bool = false, timeout: Duration = .seconds(60)
    ) throws -> CommandResult {
        try run(command, allowFailure: allowFailure, timeout: timeout)
    }

    /// Runs a command to its end and returns what it said; throws if it fails, unless `allowFailure`.
    @discardableResult
    public func run(
        _ command: [String], allowFailure: Bool = false, timeout: Duration = .seconds(60)
    ) throws -> CommandResult {
        let scratch = try Scratch()
        let process = try Subprocess.spawn(
            enterArguments(command), output: .file(scratch.output), errors: .file(scratch.errors),
            commandIsChild: hasSystemd)
        return try Subprocess.finish(
            process, as: "\(name): \(command.joined(separator: " "))", allowFailure: allowFailure, timeout: timeout)
    }

    /// Starts a command and leaves it running; its output goes to files that the handle reads at any time.
    public func spawn(_ command: String...) throws -> LabProcess { try spawn(command) }

    /// Starts a command and leaves it running; its output goes to files that the handle reads at any time.
    public func spawn(_ command: [String]) throws -> LabProcess {
        let output = "\(paths.outputs)/\(name).\(Clock.monotonic)"
        return try Subprocess.spawn(
            enterArguments(command), output: .file(output + ".out"), errors: .file(output + ".err"),
            newSession: true, commandIsChild: hasSystemd)
    }

    /// The kernel's network counters of this member: `Tcp.RetransSegs`, `TcpExt.TCPTimeouts`, … from /proc/net/snmp
    /// and /proc/net/netstat, proc(5).
    public func counters() throws -> [String: Int] {
        Self.parseCounters(try run("cat", "/proc/net/snmp", "/proc/net/netstat").output)
    }

    /// Pairs of lines: `Tcp: NAME NAME …`, then `Tcp: VALUE VALUE …`.
    static func parseCounters(_ text: String) -> [String: Int] {
        let lines = text.split(separator: "\n").map { String($0).words }
        var counters: [String: Int] = [:]
        for (names, values) in zip(lines, lines.dropFirst())
        where names.first == values.first && names.count == values.count {
            let prefix = (names.first ?? "").dropLast()
            for (name, value) in zip(names, values).dropFirst() { counters["\(prefix).\(name)"] = Int(value) }
        }
        return counters
    }
}

extension LabHost {
    /// Becomes the command, execve(2), with the caller's streams and terminal: its exit status is ours.
    public func replaceProcess(with command: [String]) throws -> Never {
        let arguments = try enterArguments(command)
        let code = Subprocess.withCStrings(arguments) { argv in
            Subprocess.withCStrings(Subprocess.environment) { envp in
                execve(arguments[0], argv, envp)
                return ck_errno()
            }
        }
        throw KernelError(call: "execve", object: arguments[0], code: Errno(rawValue: code))
    }
}
