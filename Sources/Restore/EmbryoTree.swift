import CKernel
import Glibc
import Kernel
import Resources

/// The shape of a service's process tree, known before it is frozen.
public struct TreeSketch: Sendable {
    public struct Process: Sendable {
        public var pid: Int32
        public var parent: Int32
        public var group: Int32
        public var session: Int32
        public var threadCount: Int

        public init(pid: Int32, parent: Int32, group: Int32, session: Int32, threadCount: Int = 1) {
            self.pid = pid
            self.parent = parent
            self.group = group
            self.session = session
            self.threadCount = threadCount
        }
    }

    /// Parents before their children.
    public var processes: [Process] = []
    /// Everything any process of the service maps: the loop stays outside.
    public var mapped: [Range<UInt64>] = []
    /// Highest descriptor number of any process.
    public var highestDescriptor: Int32 = 0

    public init(processes: [Process] = [], mapped: [Range<UInt64>] = [], highestDescriptor: Int32 = 0) {
        self.processes = processes
        self.mapped = mapped
        self.highestDescriptor = highestDescriptor
    }
}

/// Where and as whose children the processes are made.
public struct TreePlace: Sendable {
    public var adoption = Adoption.ourParent
    /// Descriptor of the cgroup directory, thawed.
    public var cgroup: Int32?
    /// The arriving unit's holder, whose namespaces, root and filters the processes get.
    public var holder: Int32?
    /// Descriptor of a time namespace.
    public var timeNamespace: Int32?

    public init(
        adoption: Adoption = .ourParent, cgroup: Int32? = nil, holder: Int32? = nil, timeNamespace: Int32? = nil
    ) {
        self.adoption = adoption
        self.cgroup = cgroup
        self.holder = holder
        self.timeNamespace = timeNamespace
    }
}

/// All processes of a service in the making. Unless handed over they end with `abandon`.
public final class EmbryoTree {
    public let sketch: TreeSketch
    public let place: TreePlace
    let region: EmbryoRegion
    public private(set) var embryos: [Int32: Embryo] = [:]
    /// Leaders of sessions and groups whose real leader is gone: end once used.
    private var temporary: [Int32: (embryo: Embryo, reaper: Int32)] = [:]
    let control: Int32
    private let byPid: [Int32: TreeSketch.Process]
    /// Session a process must be born in; nil when any will do.
    private var births: [Int32: Int32?] = [:]

    private init(_ sketch: TreeSketch, _ place: TreePlace) throws(RestoreError) {
        self.sketch = sketch
        self.place = place
        control = max(sketch.highestDescriptor + 1, 500)
        byPid = Dictionary(sketch.processes.map { ($0.pid, $0) }, uniquingKeysWith: { first, _ in first })
        let threads = sketch.processes.reduce(0) { $0 + $1.threadCount }
        region = try step(0, "loop region") { () throws(KernelError) in
            try EmbryoRegion(slots: threads * 2 + sketch.processes.count * 2 + 64, avoiding: sketch.mapped)
        }
    }

    /// Makes every process with its number, parent, session and group. On an error nothing remains.
    public static func build(_ sketch: TreeSketch, at place: TreePlace) throws(RestoreError) -> EmbryoTree {
        let tree = try EmbryoTree(sketch, place)
        do throws(RestoreError) { try tree.makeAll() } catch {
            tree.abandon()
            throw error
        }
        return tree
    }

    /// Ends all embryos.
    ///
    /// `traced` are the threads that this thread traces.
    public func abandon(traced: [Int32] = []) {
        for (embryo, _) in temporary.values { embryo.process.kill() }
        for embryo in embryos.values { embryo.process.kill() }
        for tid in traced where embryos[tid] == nil { Ptrace.awaitEnd(tid) }
        // Children first: what our own children leave behind is reaped by whoever adopts it.
        for process in sketch.processes.reversed() { embryos[process.pid]?.kill() }
        for (embryo, _) in temporary.values { embryo.kill() }
        embryos = [:]
        temporary = [:]
    }

    private func children(of pid: Int32) -> [TreeSketch.Process] {
        sketch.processes.filter { $0.parent == pid && $0.pid != pid }
    }

    /// The session `process` must have at birth so that it and its descendants end in theirs.
    private func birth(_ process: TreeSketch.Process) throws(RestoreError) -> Int32? {
        if let known = births[process.pid] { return known }
        var result: Int32? = process.session == process.pid ? nil : process.session
        if process.session == process.pid {
            for child in children(of: process.pid) {
                guard let needed = try birth(child), needed != process.pid else { continue }
                if let other = result, other != needed {
                    throw .tree(pid: process.pid, why: "its descendants are in sessions \(other) and \(needed)")
                }
                result = needed
            }
        }
        births[process.pid] = .some(result)
        return result
    }

    private func makeAll() throws(RestoreError) {
        let roots = sketch.processes.filter { byPid[$0.parent] == nil }
        var waiting: [TreeSketch.Process] = []
        for root in roots {
            if let session = try birth(root), byPid[session] != nil { waiting.append(root) } else { try makeRoot(root) }
        }
        // Daemons that left a session whose leader is still in the service.
        for root in waiting {
            guard let session = try birth(root), let leader = embryos[session] else {
                throw .tree(pid: root.pid, why: "the leader of its session \(root.session) was not made")
            }
            guard byPid[byPid[session]?.parent ?? 0] == nil else {
                throw .tree(pid: root.pid, why: "its session \(session) is led by a process that is no outermost one")
            }
            try adopt(try leader.cloneProcess(root.pid, asSibling: true), root)
        }
        for process in sketch.processes { try joinGroup(process) }
        try endTemporaries()
    }

    private func makeRoot(_ process: TreeSketch.Process) throws(RestoreError) {
        guard let session = try birth(process) else {
            return try adopt(try firstEmbryo(process.pid), process)
        }
        if temporary[session] == nil {
            let leader = try firstEmbryo(session)
            temporary[session] = (leader, 0)
            try becomeSessionLeader(leader)
        }
        guard let leader = temporary[session]?.embryo else { return }
        try adopt(try leader.cloneProcess(process.pid, asSibling: true), process)
    }

    private func firstEmbryo(_ pid: Int32) throws(RestoreError) -> Embryo {
        let embryo = try EmbryoBirth.start(
            pid, in: region, adoption: place.adoption, cgroup: place.cgroup, control: control)
        do throws(RestoreError) {
            try SessionKeyring.join(embryo, place)
            try Sandbox.enter(embryo, place)
        } catch {
            embryo.kill()
            throw error
        }
        return embryo
    }

    private func becomeSessionLeader(_ embryo: Embryo) throws(RestoreError) {
        try step(embryo.pid, "session") { () throws(KernelError) in
            try embryo.call(Int32(SYS_setsid), on: "session \(embryo.pid)")
        }
        embryo.session = embryo.pid
        embryo.group = embryo.pid
    }

    /// Registers a new process, makes its children, and lets it lead its session between those of before and after.
    private func adopt(_ embryo: Embryo, _ process: TreeSketch.Process) throws(RestoreError) {
        embryos[process.pid] = embryo
        var later: [TreeSketch.Process] = []
        for child in children(of: process.pid) {
            let needed = try birth(child)
            if process.session == process.pid, needed == nil || needed == process.pid {
                later.append(child)
                continue
            }
            guard needed == nil || needed == embryo.session else {
                throw .tree(pid: child.pid, why: "its session \(child.session) is neither its parent's nor its own")
            }
            try adopt(try embryo.cloneProcess(child.pid, asSibling: false), child)
        }
        if process.session == process.pid { try becomeSessionLeader(embryo) }
        for child in later { try adopt(try embryo.cloneProcess(child.pid, asSibling: false), child) }
    }

    private func joinGroup(_ process: TreeSketch.Process) throws(RestoreError) {
        guard let embryo = embryos[process.pid], embryo.group != process.group else { return }
        if process.group != process.pid {
            if let leader = embryos[process.group] {
                if leader.group != process.group, let its = byPid[process.group] { try joinGroup(its) }
            } else if temporary[process.group] == nil {
                let leader = try embryo.cloneProcess(process.group, asSibling: true)
                temporary[process.group] = (leader, process.parent)
                try step(leader.pid, "group") { () throws(KernelError) in
                    try leader.call(Int32(SYS_setpgid), .int(0), .int(0), on: "group \(leader.pid)")
                }
            }
        }
        try step(process.pid, "group") { () throws(KernelError) in
            try embryo.call(Int32(SYS_setpgid), .int(0), .int(process.group), on: "group \(process.group)")
        }
        embryo.group = process.group
    }

    private func endTemporaries() throws(RestoreError) {
        for (pid, entry) in temporary {
            entry.embryo.kill()
            guard let reaper = embryos[entry.reaper] else { continue }
            try step(pid, "reap") { () throws(KernelError) in
                try reaper.call(Int32(SYS_wait4), .int(pid), .int(0), .int(0x4000_0000), .int(0), on: "pid \(pid)")
            }
        }
        temporary = [:]
    }
}
