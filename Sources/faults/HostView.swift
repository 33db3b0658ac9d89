import Glibc
import Kernel
import Lab

/// A process of the service as the machine sees it from outside the hosts.
struct Copy: Equatable {
    let host: String
    /// In the numbering of the machine.
    let pid: Int32
    /// In the numbering of its host.
    let innerPid: Int32
    /// The 16 bytes at AT_RANDOM: the kernel draws them at execve(2), so the same process everywhere has the same.
    let random: [UInt8]
    let isFrozen: Bool
    /// How often its first thread has gone to sleep: of the service's child, which naps, this grows while it runs.
    let naps: Int
}

/// What the harness sees and touches of a host without running anything in it: its cgroups and files.
struct HostView {
    let host: LabHost
    let unit: String

    /// The daemon's, the unit's, or the unit's child while it moves.
    enum Group { case daemon, unit, moving }

    private func path(_ group: Group) -> String {
        let slice = host.cgroup + "/system.slice/"
        return switch group {
        case .daemon: slice + "mobilityd.service"
        case .unit: slice + unit
        case .moving: slice + unit + "/moving"
        }
    }

    /// Pids in the numbering of the machine; none when the group is not there.
    func pids(_ group: Group) -> [Int32] {
        ((try? Files.readText(path(group) + "/cgroup.procs")) ?? "").split(separator: "\n").compactMap { Int32($0) }
    }

    private func isFrozen(_ group: Group) -> Bool {
        ((try? Files.readText(path(group) + "/cgroup.events")) ?? "").contains("frozen 1")
    }

    private static func program(_ pid: Int32) -> String { (try? Files.readLink("/proc/\(pid)/exe")) ?? "" }

    /// The daemon's process; nil while there is none.
    var daemon: Int32? { pids(.daemon).first { Self.program($0).hasSuffix("/mobilityd") } }
    /// `mobility-arrive` of an arrival.
    var holder: Int32? { pids(.unit).first { Self.program($0).hasSuffix("/mobility-arrive") } }

    /// Every process of the unit but the holder, whatever it has become so far.
    var members: [Int32] {
        let holder = holder
        return (pids(.unit) + pids(.moving)).filter { $0 != holder }
    }

    /// The processes that are the service: `program` is what they run.
    func copies(of program: String) -> [Copy] {
        [Group.unit, .moving].flatMap { group -> [Copy] in
            let found = pids(group).filter { Self.program($0).hasSuffix("/" + program) }
            if found.isEmpty { return [] }
            let frozen = isFrozen(group)
            return found.compactMap { pid in
                guard let random = Self.random(pid), let inner = Self.innerPid(pid) else { return nil }
                return Copy(
                    host: host.name, pid: pid, innerPid: inner, random: random, isFrozen: frozen,
                    naps: Self.status(pid, "voluntary_ctxt_switches:") ?? 0)
            }
        }
    }

    /// The last number of `NSpid:`, proc_pid_status(5).
    static func innerPid(_ pid: Int32) -> Int32? { status(pid, "NSpid:").map(Int32.init) }

    private static func status(_ pid: Int32, _ key: String) -> Int? {
        let status = (try? Files.readText("/proc/\(pid)/status")) ?? ""
        guard let line = status.split(separator: "\n").first(where: { $0.hasPrefix(key) }) else { return nil }
        return line.split(whereSeparator: \.isWhitespace).last.flatMap { Int($0) }
    }

    private static func random(_ pid: Int32) -> [UInt8]? {
        guard let vector = try? FileDescriptor.open("/proc/\(pid)/auxv", O_RDONLY).readToEnd() else { return nil }
        func word(_ offset: Int) -> UInt64 {
            (0..<8).reduce(0) { $0 | UInt64(vector[offset + $1]) << UInt64(8 * $1) }
        }
        for entry in stride(from: 0, to: vector.count - 15, by: 16) where word(entry) == 25 {  // AT_RANDOM
            guard let memory = try? FileDescriptor.open("/proc/\(pid)/mem", O_RDONLY),
                let bytes = try? memory.read(upTo: 16, at: Int64(bitPattern: word(entry + 8))), bytes.count == 16
            else { return nil }
            return bytes
        }
        return nil
    }

    /// Whether a drop-in of a move is there.
    var isMoving: Bool {
        let directory = root + "/run/systemd/system/\(unit).d/zz-mobility-"
        return Files.exists(directory + "departing.conf") || Files.exists(directory + "arriving.conf")
    }

    /// Whose the unit is, in the words of the host's journal of ownership; empty when it has never moved.
    var record: String {
        let text = try? Files.readText(root + "/var/lib/mobilityd/ownership/unit-\(unit)")
        return (text ?? "").split(separator: "\n").first.map(String.init) ?? ""
    }

    /// The host's root directory from outside.
    var root: String { "/proc/\(host.initPid ?? 0)/root" }

    /// Whether the daemon takes connections: its port in /proc/PID/net/tcp is in state LISTEN.
    var isListening: Bool {
        let table = (try? Files.readText("/proc/\(host.initPid ?? 0)/net/tcp")) ?? ""
        return daemon != nil && table.contains(":1CF5 00000000:0000 0A")
    }
}
