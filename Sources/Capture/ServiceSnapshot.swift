import CKernel
import Glibc
import Kernel
import KernelCapture
import ProcessImage
import Resources

/// One process as it is found, before anything is judged or copied.
public struct ProcessSnapshot: Sendable {
    public var pid: Int32
    public var task: TaskRecord
    public var descriptors: [DescriptorProbe]
    public var mappings: [VMAProbe]
    /// readlink of /proc/PID/exe, cwd and root.
    public var executable: String
    public var workingDirectory: String
    public var rootDirectory: String

    /// A process without threads is not made by the kernel; the decoder gives the leader first.
    public var leader: ThreadRecord { task.threads.first ?? ThreadRecord() }
    public var isZombie: Bool { leader.exitState != 0 && task.threads.count <= 1 }
}

/// All processes of a unit's cgroup, parents before children.
public struct ServiceSnapshot: Sendable {
    public var processes: [ProcessSnapshot]
    /// Processes of the cgroup that this daemon's pid namespace does not show.
    public var invisible: Int
    public var descriptors: [DescriptorProbe] { processes.flatMap(\.descriptors) }
}

extension ServiceSnapshot {
    /// Reads everything about the processes of `cgroup`; nothing is stopped, so that a process which ends meanwhile is
    /// left out.
    static func read(_ cgroup: Cgroup, module: CaptureModule) throws -> ServiceSnapshot {
        let listed = try cgroup.processes()
        let pids = listed.filter { $0 > 0 }
        var tasks = try module.tasks(pids: pids)
        // A process that has ended leaves cgroup.procs at once, though its parent can still wait for it.
        let ended = try module.tasks(pids: try children(of: tasks).filter { !pids.contains($0) })
        tasks += ended.filter { ($0.threads.first?.exitState ?? 0) != 0 }
        let files = Dictionary(grouping: try module.files(pids: pids), by: \.pid)
        var processes: [ProcessSnapshot] = []
        for task in tasks where !task.threads.isEmpty {
            if let process = try process(task, files: files[task.process.pid] ?? []) { processes.append(process) }
        }
        return ServiceSnapshot(processes: order(processes), invisible: listed.count - pids.count)
    }

    /// Children of all threads, /proc/PID/task/TID/children; none of a thread that has ended meanwhile.
    private static func children(of tasks: [TaskRecord]) throws(KernelError) -> [Int32] {
        var result: [Int32] = []
        for thread in tasks.flatMap(\.threads) {
            let file = "/proc/\(thread.tgid)/task/\(thread.tid)/children"
            do throws(KernelError) {
                result += try Files.readText(file).split(separator: " ").compactMap { Int32($0) }
            } catch {
                guard error.code == .noEntry || error.code == .noProcess else { throw error }
            }
        }
        return result
    }

    /// nil when the process has ended meanwhile.
    private static func process(_ task: TaskRecord, files: [FileRecord]) throws(KernelError) -> ProcessSnapshot? {
        do throws(KernelError) {
            return try living(task, files: files)
        } catch  where error.code == .noEntry || error.code == .noProcess {
            return nil
        }
    }

    private static func living(_ task: TaskRecord, files: [FileRecord]) throws(KernelError) -> ProcessSnapshot {
        let pid = task.process.pid
        var snapshot = ProcessSnapshot(
            pid: pid, task: task, descriptors: [], mappings: [], executable: "", workingDirectory: "",
            rootDirectory: "")
        if snapshot.isZombie { return snapshot }
        snapshot.executable = try Files.readLink("/proc/\(pid)/exe")
        snapshot.workingDirectory = try Files.readLink("/proc/\(pid)/cwd")
        snapshot.rootDirectory = try Files.readLink("/proc/\(pid)/root")
        for line in try ProcMaps.readDetailed(pid: pid) {
            snapshot.mappings.append(
                VMAProbe(
                    pid: pid, start: line.start, end: line.end, protection: line.protection,
                    isShared: line.isShared, offset: line.offset, device: line.device, inode: line.inode,
                    name: line.name, flags: line.flags))
        }
        for file in files {
            if let probe = try descriptor(file) { snapshot.descriptors.append(probe) }
        }
        snapshot.descriptors.sort { $0.number < $1.number }
        return snapshot
    }

    /// nil when the descriptor was closed meanwhile.
    private static func descriptor(_ file: FileRecord) throws(KernelError) -> DescriptorProbe? {
        if let socket = file.socket {
            var probe = self.socket(file, socket)
            // fdinfo tells of descriptors that wait in the queue of a unix socket.
            if socket.family != AF_UNIX { return probe }
            do throws(KernelError) { try readDetails(&probe) } catch  where error.code == .noEntry { return nil }
            return probe
        }
        let path = "/proc/\(file.pid)/fd/\(file.number)"
        do throws(KernelError) {
            var probe = DescriptorProbe(pid: file.pid, number: file.number, link: try Files.readLink(path))
            var status = stat()
            // Follows the link to the open file itself, not to its name.
            try systemCall("stat", on: path) { stat(path, &status) }
            probe.device = UInt64(status.st_dev)
            probe.inode = UInt64(status.st_ino)
            probe.mode = probe.link.hasPrefix("anon_inode:") ? 0 : status.st_mode
            probe.specialDevice = UInt64(status.st_rdev)
            probe.size = UInt64(status.st_size)
            probe.position = file.position
            probe.flags = Int32(bitPattern: file.flags)
            probe.description = file.description
            probe.socket = file.socket
            try readDetails(&probe)
            return probe
        } catch  where error.code == .noEntry {
            return nil
        }
    }

    /// What the kernel's program has read of an internet socket is all there is: nothing need be asked of /proc, and a
    /// service has thousands of them.
    private static func socket(_ file: FileRecord, _ socket: SocketRecord) -> DescriptorProbe {
        var probe = DescriptorProbe(pid: file.pid, number: file.number, link: "socket:[\(file.inode)]")
        probe.device = file.device
        probe.inode = file.inode
        probe.mode = S_IFSOCK | 0o777
        probe.position = file.position
        probe.flags = Int32(bitPattern: file.flags)
        probe.description = file.description
        probe.socket = socket
        return probe
    }

    private static func readDetails(_ probe: inout DescriptorProbe) throws(KernelError) {
        let text = try Files.read("/proc/\(probe.pid)/fdinfo/\(probe.number)")
        for line in text.split(separator: UInt8(ascii: "\n")) {
            func value(_ key: StaticString) -> Substring? {
                let length = key.utf8CodeUnitCount
                let isKey = key.withUTF8Buffer { line.starts(with: $0) }
                guard isKey else { return nil }
                return Substring(decoding: line.dropFirst(length).drop { $0 == 9 || $0 == 32 }, as: UTF8.self)
            }
            if let position = value("pos:") {
                probe.position = Int64(position) ?? probe.position
            } else if let flags = value("flags:") {
                probe.flags = Int32(flags, radix: 8) ?? probe.flags
            } else if value("mnt_id:") == nil && value("ino:") == nil {
                probe.details.append(String(decoding: line, as: UTF8.self))
            }
        }
    }

    /// Parents before children, otherwise by number.
    private static func order(_ processes: [ProcessSnapshot]) -> [ProcessSnapshot] {
        let sorted = processes.sorted { $0.pid < $1.pid }
        let known = Set(sorted.map(\.pid))
        let children = Dictionary(grouping: sorted, by: \.leader.parent)
        var result: [ProcessSnapshot] = []
        var waiting = sorted.filter { !known.contains($0.leader.parent) || $0.leader.parent == $0.pid }
        while !waiting.isEmpty {
            let next = waiting.removeFirst()
            result.append(next)
            waiting += (children[next.pid] ?? []).filter { $0.pid != next.pid }
        }
        return result
    }
}
