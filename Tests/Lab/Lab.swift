import CKernel
import Glibc
import Kernel
import Synchronization

/// A few hosts, each a real systemd in namespaces of its own, and clients, all on one bridge.
///
/// ```swift
/// let lab = try Lab.up(hosts: ["a", "b"], clients: ["c"])
/// try lab["a"].run("systemctl", "start", "nginx")
/// print(try lab["c"].run("curl", "-s", "http://10.10.10.2/").output)
/// lab.down()
/// ```
///
/// The lab goes down with its value, with SIGINT or SIGTERM, and, after a crash of its process, when the next lab is
/// made. Nothing of the machine outside the lab's namespaces, cgroup and `/run/mobilityd-lab` is touched.
public final class Lab: Sendable {
    public let name: String
    let paths: LabPaths
    private let hosts: [LabHost]
    private let owned: Mutex<Bool>
    /// The unshare(1) processes that wait for the hosts' PID 1; reaped when the lab goes down.
    let launchers: Mutex<[LabProcess]>

    private init(paths: LabPaths, owned: Bool, launchers: [LabProcess] = []) throws {
        name = paths.name
        self.launchers = Mutex(launchers)
        self.paths = paths
        self.owned = Mutex(owned)
        let cgroup = try ControlGroups.make(lab: paths.name)
        hosts = try Files.readText(paths.members).split(separator: "\n").compactMap { LabMember(line: String($0)) }
            .map { try LabHost($0, paths: paths, cgroup: cgroup) }
    }

    deinit { if owned.withLock({ $0 }) { down() } }

    /// All members: hosts first, then clients.
    public var members: [LabHost] { hosts }

    /// The member of that name.
    public subscript(name: String) -> LabHost {
        get throws {
            guard let host = hosts.first(where: { $0.name == name }) else {
                throw LabError("lab \(self.name) has no member \(name); it has \(hosts.map(\.name))")
            }
            return host
        }
    }

    /// Boots the hosts side by side and returns when all are ready.
    ///
    /// - Parameter name: labs of different names live side by side.
    public static func up(
        hosts: [String], clients: [String] = [], name: String = "default", product: Product = .built,
        timeout: Duration = .seconds(30)
    ) throws -> Lab {
        guard geteuid() == 0 else { throw LabError("a lab needs root: it makes namespaces, mounts and cgroups") }
        let members = try LabMember.plan(hosts: hosts, clients: clients)
        let paths = LabPaths(name: name)
        removeAbandoned()
        LabSignals.install()
        try claim(paths)
        do {
            let launchers = try build(members, paths: paths, product: product, timeout: timeout)
            return try Lab(paths: paths, owned: true, launchers: launchers)
        } catch {
            down(name: name)
            throw error
        }
    }

    /// A lab that is up already, for example one that a person made with `lab up`; it stays up.
    public static func attach(name: String = "default") throws -> Lab {
        let paths = LabPaths(name: name)
        guard Files.exists(paths.members) else { throw LabError("no lab \(name) is up; `lab up` makes one") }
        return try Lab(paths: paths, owned: false)
    }

    /// Leaves the lab up when this process ends; `Lab.down(name:)` removes it.
    public func keep() throws {
        try Files.writeAtomically(paths.owner, "kept\n")
        owned.withLock { $0 = false }
        LabSignals.forget(name)
    }

    /// Pulls the cable of a member's eth0, or plugs it in again.
    public func link(_ member: String, up: Bool) throws {
        try LabNetwork(paths: paths).setLink(self[member].name, up: up)
    }

    /// Takes the lab down; does nothing when it is down.
    public func down() {
        owned.withLock { $0 = false }
        Self.down(name: name)
        for launcher in launchers.withLock({ $0 }) { _ = try? launcher.wait(timeout: .seconds(5)) }
    }

    /// Takes down the lab of that name, whoever made it and however far it got. Idempotent.
    public static func down(name: String = "default") {
        do {
            try remove(LabPaths(name: name))
        } catch {
            LabSignals.complain("lab \(name) is not wholly down: \(error)")
        }
        LabSignals.forget(name)
    }

    /// Names of the labs that exist.
    public static var existing: [String] { LabPaths.labs() }

    private static func claim(_ paths: LabPaths) throws {
        guard !paths.name.isEmpty, paths.name.count <= 32, !paths.name.hasPrefix("."), paths.name != "cgroup2",
            paths.name.allSatisfy({ $0.isASCII && ($0.isLetter || $0.isNumber || $0 == "-" || $0 == ".") })
        else { throw LabError("a lab cannot be called `\(paths.name)`: up to 32 letters, digits, - and .") }
        try Files.makeDirectories(LabPaths.base)
        let directory = paths.directory
        // mkdir(2) is the lock: of two that make one lab, one finds it there.
        guard !Files.exists(directory) else {
            throw LabError("lab \(paths.name) is up already: `lab down --name \(paths.name)`, or choose another name")
        }
        try systemCall("mkdir", on: directory) { mkdir(directory, 0o755) }
        try ProcessIdentity(pid: getpid())?.record(at: paths.owner)
        LabSignals.remember(paths.name)
    }

    private static func build(
        _ members: [LabMember], paths: LabPaths, product: Product, timeout: Duration
    ) throws -> [LabProcess] {
        try Files.makeDirectories(paths.outputs)
        let cgroup = try ControlGroups.make(lab: paths.name)
        for member in members { try Files.makeDirectories("\(cgroup)/\(member.name)") }
        try LabNetwork(paths: paths).make(members)
        let stages = members.filter { $0.kind == .host }.map { ($0, HostStage(root: paths.stage($0.name))) }
        for (member, stage) in stages { try stage.write(for: member, among: members) }
        if let tree = try product.installedTree(paths) { try Product.install(tree, into: stages) }
        let booting = try stages.map { try HostBoot($0.0, paths: paths, cgroup: "\(cgroup)/\($0.0.name)") }
        for host in booting { try host.finish(timeout: timeout) }
        try Files.writeAtomically(paths.members, members.map(\.line).joined(separator: "\n") + "\n")
        for (member, _) in stages { try LabHost(member, paths: paths, cgroup: cgroup).awaitStarted(timeout) }
        return booting.map(\.launcher)
    }

    private static func remove(_ paths: LabPaths) throws {
        for host in (try? Files.list(paths.directory)) ?? [] {
            try ProcessIdentity(recordedAt: paths.initProcess(host))?.kill()
        }
        for mount in ControlGroups.mounts() { try ControlGroups.remove("\(mount)/mobilityd-lab/\(paths.name)") }
        ControlGroups.removeRootIfEmpty()
        LabNetwork(paths: paths).remove()
        if Files.exists(paths.directory) {
            try Subprocess.run(["/bin/rm", "-rf", "--one-file-system", paths.directory])
        }
        rmdir(LabPaths.base)
    }

    /// Takes down labs whose process has ended without doing so.
    private static func removeAbandoned() {
        for name in LabPaths.labs() {
            guard let owner = ProcessIdentity(recordedAt: LabPaths(name: name).owner), !owner.isAlive else { continue }
            down(name: name)
        }
    }
}

extension LabHost {
    /// Waits until systemd's start-up is over, `systemctl is-system-running --wait`; units that failed are not an
    /// error here, tests ask for them.
    func awaitStarted(_ timeout: Duration) throws {
        try run("systemctl", "is-system-running", "--wait", allowFailure: true, timeout: timeout)
    }

    /// Names of the units that have failed.
    public func failedUnits() throws -> [String] {
        try run("systemctl", "list-units", "--failed", "--plain", "--no-legend", "--no-pager").output
            .split(separator: "\n").compactMap { String($0).words.first }
    }
}
