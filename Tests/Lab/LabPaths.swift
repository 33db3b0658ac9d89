import Glibc
import Kernel

/// Where the lab keeps what it must remember: `/run/mobilityd-lab/NAME/…`. Nothing of it outlives `down`.
struct LabPaths: Sendable {
    static let base = "/run/mobilityd-lab"

    let name: String
    var directory: String { "\(LabPaths.base)/\(name)" }
    /// The members and their addresses, one a line.
    var members: String { directory + "/members" }
    /// `PID STARTTIME` of the process that the lab belongs to, or `kept`.
    var owner: String { directory + "/owner" }
    /// Files that hold the network namespaces, as `unshare --net=FILE` makes them.
    var networks: String { directory + "/net" }
    var switchNetwork: String { networks + "/switch" }
    /// Output files of spawned commands.
    var outputs: String { directory + "/out" }

    func network(_ member: String) -> String { "\(networks)/\(member).ns" }
    func member(_ member: String) -> String { "\(directory)/\(member)" }
    /// The tree that a host's upper layer starts from.
    func stage(_ host: String) -> String { member(host) + "/stage" }
    /// `PID STARTTIME` of the host's PID 1 in the machine's numbering.
    func initProcess(_ host: String) -> String { member(host) + "/init" }
    func console(_ host: String) -> String { member(host) + "/console" }

    /// The labs that exist, by name.
    static func labs() -> [String] { ((try? Files.list(base)) ?? []).filter { $0 != "cgroup2" } }
}

/// A process that is named for good: its pid and when it started.
struct ProcessIdentity: Sendable {
    let pid: Int32
    let startTime: UInt64

    init?(pid: Int32) {
        guard let startTime = ProcessHandle.startTime(pid) else { return nil }
        self.pid = pid
        self.startTime = startTime
    }

    init?(recordedAt path: String) {
        guard let fields = try? Files.readText(path).words, fields.count == 2, let pid = Int32(fields[0]),
            let startTime = UInt64(fields[1])
        else { return nil }
        self.pid = pid
        self.startTime = startTime
    }

    func record(at path: String) throws { try Files.writeAtomically(path, "\(pid) \(startTime)\n") }

    var isAlive: Bool { ProcessHandle.startTime(pid) == startTime }

    /// SIGKILL to exactly this process: the pidfd is taken first, then the identity is checked.
    func kill() throws {
        guard let handle = try? ProcessHandle.open(pid), isAlive else { return }
        try ProcessHandle.signal(handle, SIGKILL, object: "pid \(pid)")
    }
}
