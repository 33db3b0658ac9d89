import CKernel
import Glibc

/// A control group of the unified hierarchy, cgroups(7), by its directory.
public struct Cgroup: Hashable, Sendable {
    /// Directory, for example `/sys/fs/cgroup/system.slice/nginx.service`.
    public let path: String

    public init(path: String) { self.path = path }

    /// Where the unified hierarchy is mounted, from /proc/self/mountinfo.
    public static func mountPoint() throws(KernelError) -> String {
        for line in try Files.readText("/proc/self/mountinfo").split(separator: "\n") {
            let words = line.split(separator: " ")
            guard let dash = words.firstIndex(of: "-"), dash + 1 < words.count, words.count > 4 else { continue }
            if words[dash + 1] == "cgroup2" { return String(words[4]) }
        }
        throw KernelError(call: "mount", object: "cgroup2", code: .noEntry)
    }

    /// The group of a path below the mount point, as systemd's `ControlGroup` property names it.
    public static func at(_ relative: String) throws(KernelError) -> Cgroup {
        let mount = try mountPoint()
        return Cgroup(path: relative.hasPrefix("/") ? mount + relative : mount + "/" + relative)
    }

    /// The group of a process, from the `0::` line of /proc/PID/cgroup.
    public static func of(pid: Int32) throws(KernelError) -> Cgroup {
        let file = "/proc/\(pid)/cgroup"
        for line in try Files.readText(file).split(separator: "\n") where line.hasPrefix("0::") {
            return try at(String(line.dropFirst(3)))
        }
        throw KernelError(call: "read", object: file, code: .noEntry)
    }

    public var exists: Bool { Files.exists(path) }

    /// Makes a child group; one that is there already is taken as it is.
    @discardableResult
    public func makeChild(_ name: String) throws(KernelError) -> Cgroup {
        let child = path + "/" + name
        do throws(KernelError) {
            try systemCall("mkdir", on: child) { mkdir(child, 0o755) }
        } catch  where error.code == .exists {}
        return Cgroup(path: child)
    }

    /// Removes the (empty) group.
    public func remove() throws(KernelError) {
        try systemCall("rmdir", on: path) { rmdir(path) }
    }

    /// Direct child groups, sorted by name.
    public func children() throws(KernelError) -> [Cgroup] {
        var result: [Cgroup] = []
        for name in try Files.list(path) {
            let child = path + "/" + name
            var status = stat()
            if lstat(child, &status) == 0, status.st_mode & S_IFMT == S_IFDIR { result.append(Cgroup(path: child)) }
        }
        return result
    }

    /// Processes of this group alone. A process that is not visible in this pid namespace is reported as 0.
    public func ownProcesses() throws(KernelError) -> [Int32] {
        try Files.readText(path + "/cgroup.procs").split(separator: "\n").compactMap { Int32($0) }
    }

    /// Processes of this group and of all groups below it, ascending.
    public func processes() throws(KernelError) -> [Int32] {
        var all = try ownProcesses()
        for child in try children() { all += try child.processes() }
        return all.sorted()
    }

    /// Moves a process with all its threads into this group.
    public func take(pid: Int32) throws(KernelError) {
        try Files.writeControl(path + "/cgroup.procs", "\(pid)")
    }

    /// Moves all processes of the group and its children elsewhere; repeated until none is left, because a
    /// process may fork meanwhile.
    public func moveProcesses(to other: Cgroup) throws(KernelError) {
        while true {
            let pids = try processes()
            if pids.isEmpty { return }
            for pid in pids {
                do throws(KernelError) {
                    try other.take(pid: pid)
                } catch  where error.code == .noProcess {}
            }
        }
    }

    /// Freezes the group and waits until the kernel says that every task of it is frozen.
    public func freeze(timeoutMilliseconds: Int32 = 5000) throws(KernelError) {
        try Files.writeControl(path + "/cgroup.freeze", "1")
        try awaitEvent("frozen", value: "1", timeoutMilliseconds: timeoutMilliseconds)
    }

    public func thaw(timeoutMilliseconds: Int32 = 5000) throws(KernelError) {
        try Files.writeControl(path + "/cgroup.freeze", "0")
        try awaitEvent("frozen", value: "0", timeoutMilliseconds: timeoutMilliseconds)
    }

    /// Asks for the thaw without waiting for it; it cannot fail but for a group that is not there.
    public func requestThaw() throws(KernelError) { try Files.writeControl(path + "/cgroup.freeze", "0") }

    public func isFrozen() throws(KernelError) -> Bool { try value(of: "frozen") == "1" }

    /// SIGKILL to every process of the group and of those below. A frozen group dies when it is thawed.
    public func kill() throws(KernelError) {
        try Files.writeControl(path + "/cgroup.kill", "1")
    }

    /// Waits until no process is left in the group and below. A group that somebody removes meanwhile (the service
    /// manager does once it is empty) is empty.
    public func awaitEmpty(timeoutMilliseconds: Int32 = 5000) throws(KernelError) {
        do throws(KernelError) {
            try awaitEvent("populated", value: "0", timeoutMilliseconds: timeoutMilliseconds)
        } catch  where error.code == .noEntry || error.code.rawValue == ENODEV {}
    }

    /// One value of `cgroup.events`, nil when it has no such line.
    public func value(of event: String) throws(KernelError) -> String? {
        for line in try Files.readText(path + "/cgroup.events").split(separator: "\n") {
            let words = line.split(separator: " ")
            if words.count == 2, words[0] == event { return String(words[1]) }
        }
        return nil
    }

    private func awaitEvent(_ event: String, value wanted: String, timeoutMilliseconds: Int32) throws(KernelError) {
        let file = path + "/cgroup.events"
        // kernfs raises POLLPRI on a file that was read and has changed since.
        let events = try FileDescriptor.open(file, O_RDONLY)
        let deadline = Clock.monotonic + Int64(timeoutMilliseconds) * 1_000_000
        while true {
            let text = String(decoding: try events.read(upTo: 4096, at: 0), as: UTF8.self)
            if text.split(separator: "\n").contains("\(event) \(wanted)") { return }
            let left = (deadline - Clock.monotonic) / 1_000_000
            guard left > 0 else { throw KernelError(call: "poll", object: "\(file) \(event)", code: .timedOut) }
            var poll = pollfd(fd: events.raw, events: Int16(POLLPRI), revents: 0)
            // Never long in one piece: the kernel puts off a notification that comes within 10 ms of the last one
            // (cgroup_file_notify), and who waits for a group that is removed meanwhile is not woken at all.
            try systemCall("poll", on: file) { Glibc.poll(&poll, 1, Int32(min(left, 20))) }
        }
    }
}
