import CKernel
import Glibc
import Kernel
import ProcessImage
import Resources
import Testing
import Restore

/// A capture by ptrace and /proc of a program that tells its own registrations: enough to prove the restore.
final class SmallCapture: CaptureContext {
    let check = CheckContext(unit: "test", virtualAddresses: [], carryPaths: [], descriptors: [])
    var image = ServiceImage(unit: "test")
    var content: [(run: PageRun, bytes: [UInt8])] = []
    private var objects: [(device: UInt64, inode: UInt64)] = []
    private let base: String

    init(base: String) { self.base = base }

    func take(pid: Int32, number: Int32) throws(KernelError) -> FileDescriptor { try Pidfd(pid: pid).take(number) }
    func index(ofDescription identity: UInt64) -> Int32? { nil }
    func sharedMemoryIndex(device: UInt64, inode: UInt64) -> Int32? {
        objects.firstIndex { $0.device == device && $0.inode == inode }.map { Int32($0) }
    }
    func identity(path: String, ofProcess pid: Int32) throws(KernelError) -> FileIdentity { FileIdentity(path: path) }
    func hold(_ descriptor: consuming FileDescriptor, undo: @escaping @Sendable (Int32) -> Void) {}

    /// Stops every thread and reads the process.
    func add(_ pid: Int32) throws {
        var process = ProcessImage(
            pid: pid, parent: try Stat(pid).parent, group: try Stat(pid).group, session: try Stat(pid).session,
            executable: FileIdentity(path: try Files.readLink("/proc/\(pid)/exe")),
            workingDirectory: try Files.readLink("/proc/\(pid)/cwd"), rootDirectory: "/", umask: 0o022)
        let tids = try Files.list("/proc/\(pid)/task").map { Int32($0)! }.sorted()
        for tid in [pid] + tids.filter({ $0 != pid }) {
            try Ptrace.seize(tid, options: 0)
            try Ptrace.interrupt(tid)
            try Ptrace.awaitStop(tid)
            process.threads.append(try thread(tid, pid))
        }
        let report = try words(pid)
        process.signalActions = (1...64).map { signal in
            signal == SIGUSR1
                ? SignalActionImage(handler: report[4], flags: report[5], restorer: report[6], mask: report[7])
                : SignalActionImage(handler: 0, flags: 0, restorer: 0, mask: 0)
        }
        let status = try Files.readText("/proc/\(pid)/status")
        func field(_ name: String) -> [String] {
            let line = status.split(separator: "\n").first { $0.hasPrefix(name + ":") } ?? ""
            return line.split(whereSeparator: { $0 == "\t" || $0 == " " }).dropFirst().map(String.init)
        }
        let uids = field("Uid").map { UInt32($0)! }
        process.credentials.realUser = uids[0]
        process.credentials.effectiveUser = uids[1]
        process.credentials.savedUser = uids[2]
        process.credentials.fileSystemUser = uids[3]
        let gids = field("Gid").map { UInt32($0)! }
        process.credentials.realGroup = gids[0]
        process.credentials.effectiveGroup = gids[1]
        process.credentials.savedGroup = gids[2]
        process.credentials.fileSystemGroup = gids[3]
        process.credentials.supplementaryGroups = field("Groups").compactMap { UInt32($0) }
        process.credentials.inheritable = UInt64(field("CapInh")[0], radix: 16)!
        process.credentials.ambient = UInt64(field("CapAmb")[0], radix: 16)!
        process.credentials.noNewPrivileges = field("NoNewPrivs") == ["1"]
        process.credentials.seccompFilters = UInt32(field("Seccomp_filters").first ?? "0") ?? 0
        process.credentials.permitted = UInt64(field("CapPrm")[0], radix: 16)!
        process.credentials.effective = UInt64(field("CapEff")[0], radix: 16)!
        process.credentials.bounding = UInt64(field("CapBnd")[0], radix: 16)!
        if process.credentials.seccompFilters > 0 {
            var chain = FilterChainImage()
            for index in 0..<Int(process.credentials.seccompFilters) {
                chain.programs.append(Bytes(try Ptrace.seccompFilter(pid, index) ?? []))
                chain.flags.append(try Ptrace.seccompFlags(pid, index))
            }
            process.filterChain = Int32(image.filterChains.count)
            image.filterChains.append(chain)
        }
        process.layout = try layout(pid)
        let index = Int32(image.processes.count)
        image.processes.append(process)
        try memory(pid, index)
    }

    private func words(_ tid: Int32) throws -> [UInt64] {
        try Files.readText("\(base).thread.\(tid)").split(whereSeparator: { $0 == " " || $0 == "\n" }).dropFirst()
            .map { UInt64($0)! }
    }

    private func thread(_ tid: Int32, _ pid: Int32) throws -> ThreadImage {
        let name = try Files.readText("/proc/\(pid)/task/\(tid)/comm").split(separator: "\n").first ?? ""
        var thread = ThreadImage(tid: tid, name: String(name))
        let registers = try Ptrace.readSet(tid, Ptrace.registers)
        thread.registers = Bytes(registers)
        thread.extendedState = Bytes(try Ptrace.readSet(tid, Ptrace.extendedState))
        thread.blockedSignals = try Ptrace.blockedSignals(tid)
        let report = try words(tid)
        thread.clearChildTid = report[0]
        thread.rseqAddress = report[1]
        thread.rseqLength = 32
        thread.rseqSignature = 0x5305_3053
        thread.alternateStack = report[2]
        thread.alternateStackSize = report[3]
        let values = registers.withUnsafeBytes { b in
            (0..<27).map { b.loadUnaligned(fromByteOffset: $0 * 8, as: Int64.self) }
        }
        if values[10] == -516 {
            let kind: RestartImage.Kind = values[15] == 7 ? .poll : .nanosleep
            thread.restart = RestartImage(kind: kind, remaining: kind == .poll ? 20_000_000 : 1_000_000_000, clock: 1)
            if values[15] != 7, tid == pid { thread.restart?.remaining = 10_000_000 }
        }
        return thread
    }

    private func layout(_ pid: Int32) throws -> MemoryLayoutImage {
        let text = try Files.readText("/proc/\(pid)/stat")
        // Field 3 of proc_pid_stat(5) is the first here.
        let f = text[text.lastIndex(of: ")")!...].split(separator: " ").dropFirst().map { UInt64($0) ?? 0 }
        func at(_ number: Int) -> UInt64 { f[number - 3] }
        var layout = MemoryLayoutImage()
        layout.startCode = at(26)
        layout.endCode = at(27)
        layout.startStack = at(28)
        layout.startData = at(45)
        layout.endData = at(46)
        layout.startBrk = at(47)
        layout.argStart = at(48)
        layout.argEnd = at(49)
        layout.envStart = at(50)
        layout.envEnd = at(51)
        layout.auxv = Bytes(try Files.read("/proc/\(pid)/auxv"))
        let maps = try ProcMaps.read(pid: pid)
        layout.brk = maps.first { $0.name == "[heap]" }?.end ?? layout.startBrk
        layout.vdso = maps.first { $0.name == "[vdso]" }?.start ?? 0
        return layout
    }

    private func memory(_ pid: Int32, _ owner: Int32) throws {
        let pagemap = try FileDescriptor.open("/proc/\(pid)/pagemap", O_RDONLY)
        for line in try ProcMaps.readDetailed(pid: pid) where line.name != "[vsyscall]" {
            let probe = VMAProbe(
                pid: pid, start: line.start, end: line.end, protection: line.protection, isShared: line.isShared,
                offset: line.offset, device: line.device, inode: line.inode, name: line.name, flags: line.flags)
            let refusals = MemoryKinds.check(probe, in: check)
            let kind = try #require(refusals.isEmpty ? MemoryKinds.kind(of: probe) : nil, "\(refusals)")
            if kind == SharedObjectMemory.self, sharedMemoryIndex(device: line.device, inode: line.inode) == nil {
                let isMemfd = line.name.hasPrefix("/memfd:")
                let name = isMemfd ? String(line.name.dropFirst(7).dropLast(10)) : ""
                let index = Int32(image.sharedMemory.count)
                objects.append((line.device, line.inode))
                image.sharedMemory.append(
                    SharedMemoryImage(
                        kind: isMemfd ? .memfd : .anonymous, name: name, size: line.end - line.start, seals: 1))
                let bytes = try ProcessMemory.read(pid: pid, address: line.start, count: Int(line.end - line.start))
                content.append((PageRun(owner: index, isShared: true, address: 0, length: UInt64(bytes.count)), bytes))
            }
            let vma = try kind.capture(probe, in: self)
            image.processes[Int(owner)].vmas.append(vma)
            for range in try kind.privateContent(vma, pagemap: pagemap) {
                let bytes = try ProcessMemory.read(
                    pid: pid, address: range.lowerBound, count: Int(range.upperBound - range.lowerBound))
                content.append(
                    (
                        PageRun(owner: owner, isShared: false, address: range.lowerBound, length: UInt64(bytes.count)),
                        bytes
                    ))
            }
        }
    }

    var sketch: TreeSketch {
        var sketch = TreeSketch()
        for process in image.processes {
            sketch.processes.append(
                .init(
                    pid: process.pid, parent: process.parent, group: process.group, session: process.session,
                    threadCount: process.threads.count))
            sketch.mapped += process.vmas.map(\.range)
        }
        return sketch
    }
}
