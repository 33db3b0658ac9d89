import CKernel
import Glibc
import Kernel
import KernelCapture
import ProcessImage
import Resources

/// Brings a captured service to life in embryos.
///
/// Order of calls: `mapMemory` and `write` as often as pre-copy wants; then in the frozen window, all on one thread
/// (ptrace belongs to a thread): `mapMemory` with the last image, `write`, `restoreState`, `stop`; the caller freezes
/// the cgroup; `release`. Until `release`, `abandon` leaves nothing behind.
public final class ServiceRestore: RestoreContext {
    public let tree: EmbryoTree
    public internal(set) var image: ServiceImage
    public var unit: String { image.unit }
    public var frozenNanoseconds: Int64 = 0
    public let parked = ParkedDescriptors()
    public let congestion: CongestionModule?
    /// The arriving unit's holder, source of descriptors 1 and 2.
    let holder: ProcessHandle?

    /// What is mapped so far.
    var mapped: [Int32: [VMAImage]] = [:]
    var sharedObjects: [Int32: SharedObject] = [:]
    /// Files of shared memory that were made here, as this daemon reaches them.
    var madeFiles: [String] = []
    /// The numbers under which each description is held, its home first.
    var placesOf: [Int32: [(pid: Int32, descriptor: DescriptorImage)]] = [:]
    /// Where a description was made first.
    var homes: [Int32: (pid: Int32, number: Int32)] = [:]
    /// Restartable sequences that threads were in, by thread number.
    var sequences: [Int32: (start: UInt64, length: UInt64, abort: UInt64)] = [:]
    /// Thread and process numbers that are traced by this thread.
    var traced: [Int32] = []

    final class SharedObject {
        let descriptor: FileDescriptor
        init(_ descriptor: consuming FileDescriptor) { self.descriptor = descriptor }
    }

    public init(tree: EmbryoTree, image: ServiceImage, congestion: CongestionModule? = nil) throws(RestoreError) {
        self.tree = tree
        self.image = image
        self.congestion = congestion
        if let pid = tree.place.holder {
            holder = try step(pid, "holder") { () throws(KernelError) in try ProcessHandle(pid: pid) }
        } else {
            holder = nil
        }
    }

    func member(_ pid: Int32) throws(RestoreError) -> Embryo {
        guard let embryo = tree.embryos[pid] else { throw .image("process \(pid) was not made") }
        return embryo
    }

    // MARK: RestoreContext

    public func embryo(_ pid: Int32) -> (any EmbryoPort)? { tree.embryos[pid] }

    public func take(description index: Int32) throws(KernelError) -> FileDescriptor {
        guard let home = homes[index], let embryo = tree.embryos[home.pid] else {
            throw KernelError(call: "take", object: "description \(index) was not made yet", code: .badDescriptor)
        }
        return try embryo.take(home.number)
    }

    public func take(sharedMemory index: Int32) throws(KernelError) -> FileDescriptor {
        if let known = sharedObjects[index] { return try known.descriptor.duplicate() }
        let made = SharedObject(try makeShared(index))
        sharedObjects[index] = made
        return try made.descriptor.duplicate()
    }

    public func takeArrival(_ number: Int32) throws(KernelError) -> FileDescriptor {
        guard let holder else {
            throw KernelError(call: "pidfd_getfd", object: "no arriving unit", code: .noProcess)
        }
        return try holder.pidfd.take(number)
    }

    public func credentials(ofProcess pid: Int32) -> CredentialsImage? {
        image.processes.first { $0.pid == pid }?.credentials
    }

    // MARK: content

    /// Writes the content of a run of pages into its place.
    public func write(_ run: PageRun, _ bytes: UnsafeRawBufferPointer) throws(RestoreError) {
        if run.isShared {
            try step(0, "content of shared memory \(run.owner)") { () throws(KernelError) in
                _ = try take(sharedMemory: run.owner)
                // Pages are sent whole; what is behind the end of the object would lengthen it.
                let size = image.sharedMemory[Int(run.owner)].size
                let count = Int(clamping: size > run.address ? min(size - run.address, UInt64(bytes.count)) : 0)
                let content = UnsafeRawBufferPointer(rebasing: bytes.prefix(count))
                try sharedObjects[run.owner]?.descriptor.writeAll(content, at: Int64(run.address))
            }
            return
        }
        guard image.processes.indices.contains(Int(run.owner)) else { throw .image("page run of no process") }
        let pid = image.processes[Int(run.owner)].pid
        try step(pid, "content at 0x\(String(run.address, radix: 16))") { () throws(KernelError) in
            do throws(KernelError) {
                try ProcessMemory.write(pid: pid, address: run.address, bytes)
            } catch  where error.code == .fault {
                // Pages that the process itself may not write.
                try ProcessMemory.force(pid: pid, address: run.address, bytes)
            }
        }
    }

    /// Everything but registers: descriptors, threads, signals, identity. The image is the last one.
    public func restoreState() throws(RestoreError) {
        try restoreDescriptors()
        for process in image.processes { try restorePlace(process) }
        for process in image.processes { try restoreThreads(process) }
        for process in image.processes { try sealMemory(process) }
        try sealSharedObjects()
        for process in image.processes { try restoreThreadAttributes(process) }
        for process in image.processes { try restoreLimits(process) }
        try seizeAll()
        for process in image.processes { try restoreIdentity(process) }
    }

    /// The last act of each description on the destination (TCP leaves repair mode). One that fails leaves the others
    /// theirs; what went wrong, one line each.
    public func activate() -> [String] {
        image.descriptions.enumerated().compactMap { index, description in
            do throws(ResourceError) {
                try DescriptorKinds.named(description.kind)?
                    .activate(description, index: Int32(index), context: self)
                return nil
            } catch {
                return "\(error)"
            }
        }
    }

    /// The same for a daemon that follows this one.
    public var awakening: Awakening { Awakening(image, homes: homes) }

    /// Ends everything that was made.
    public func abandon() {
        // While the holder's view of /dev/shm is still there.
        for path in madeFiles { unlink(path) }
        madeFiles = []
        tree.abandon(traced: traced)
        traced = []
        sharedObjects = [:]
    }

    // MARK: small state

    private func restorePlace(_ process: ProcessImage) throws(RestoreError) {
        let embryo = try member(process.pid)
        // Not chroot(2) yet: the executable is still to be found by its path.
        var calls = [
            EmbryoCall(Int32(SYS_umask), [.int(Int(process.umask))], on: "umask"),
            EmbryoCall(Int32(SYS_chdir), [.path(process.workingDirectory)], on: process.workingDirectory),
        ]
        for (index, action) in process.signalActions.enumerated() {
            let signal = index + 1
            if signal == SIGKILL || signal == SIGSTOP || signal > 64 { continue }
            let words = Words([action.handler, action.flags, action.restorer, action.mask])
            calls.append(
                EmbryoCall(
                    Int32(SYS_rt_sigaction), [.int(signal), .bytes(words.bytes), .int(0), .int(8)],
                    on: "signal \(signal)"))
        }
        // While it has one thread: with more, each registration waits for an RCU grace period.
        for command in 0..<UInt32(32) where process.memoryBarriers & (1 << command) != 0 {
            calls.append(
                EmbryoCall(Int32(SYS_membarrier), [.int(1 << Int(command)), .int(0), .int(0)], on: "membarrier"))
        }
        try step(process.pid, "directories and signal actions") { () throws(KernelError) in try embryo.run(calls) }
    }

    private func restoreLimits(_ process: ProcessImage) throws(RestoreError) {
        for (index, limit) in process.limits.enumerated() {
            try step(process.pid, "limit \(index)") { () throws(KernelError) in
                let now = try ProcessLimit.get(process.pid, Int32(index))
                if now.soft == limit.soft && now.hard == limit.hard { return }
                try ProcessLimit.set(process.pid, Int32(index), soft: limit.soft, hard: limit.hard)
            }
        }
        try step(process.pid, "coredump_filter") { () throws(KernelError) in
            let path = "/proc/\(process.pid)/coredump_filter"
            let now = try Files.readText(path).split(separator: "\n").first.flatMap { UInt32($0, radix: 16) }
            let wanted = process.coreDumpFilter
            if now != wanted { try Files.writeControl(path, "0x" + String(wanted, radix: 16)) }
        }
        try step(process.pid, "oom_score_adj") { () throws(KernelError) in
            let path = "/proc/\(process.pid)/oom_score_adj"
            let now = try Files.readText(path).split(separator: "\n").first.flatMap { Int32($0) }
            if now != process.oomScoreAdjustment { try Files.writeControl(path, "\(process.oomScoreAdjustment)") }
        }
    }
}

/// Little-endian bytes of 64-bit words, as system calls take structures.
struct Words {
    var bytes: [UInt8] = []
    init(_ words: [UInt64] = []) { for word in words { add(word) } }
    mutating func add<Value: FixedWidthInteger>(_ value: Value) {
        withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
    }
}
