import CKernel
import Clocks
import Glibc
import Kernel
import KernelCapture
import ProcessImage
import Resources

/// What one capture yields, apart from the contents of memory.
public struct CapturedService: Sendable {
    public var image: ServiceImage
    /// Where this daemon opens each of the image's shared memory objects.
    public var sharedSources: [String]
    public var holds: CaptureHolds
}

/// Takes the image of a unit whose cgroup is frozen.
public final class ServiceCapture: CaptureContext {
    private final class Process {
        let pidfd: Pidfd
        init(_ pid: Int32) throws(KernelError) { pidfd = try Pidfd(pid: pid) }
    }

    public let check: CheckContext
    public let snapshot: ServiceSnapshot
    private let inspector: ServiceInspector
    private let holds = CaptureHolds()
    private var shared: SharedObjects
    private var sharedFailure: KernelError?
    private var filters = FilterCapture()
    private var descriptionIndices: [UInt64: Int32] = [:]
    private var processes: [Int32: Process] = [:]
    /// Where the paths of each process begin.
    private var roots: [Int32: String] = [:]

    /// Reads what is there; the cgroup must be frozen, so that nothing of it changes any more.
    public init(_ inspector: ServiceInspector) throws(ResourceError) {
        self.inspector = inspector
        do throws(KernelError) {
            guard try inspector.cgroup.isFrozen() else {
                throw KernelError(call: "cgroup.events", object: inspector.cgroup.path, code: .busy)
            }
        } catch {
            throw ResourceError("unit \(inspector.unit)", "is not frozen", cause: error)
        }
        snapshot = try inspector.snapshot()
        check = inspector.context(snapshot)
        shared = SharedObjects(snapshot)
    }

    /// The check again, on what is frozen now: threads, files and mappings may be new.
    public func refusals() -> [Refusal] { inspector.check(snapshot) }

    /// The whole image. On failure everything that was changed is undone before the error comes out.
    public func capture() throws(ResourceError) -> CapturedService {
        do throws(ResourceError) {
            return try captureAll()
        } catch {
            holds.rollBack()
            throw error
        }
    }

    private func captureAll() throws(ResourceError) -> CapturedService {
        var image = ServiceImage(unit: inspector.unit)
        let threads: ThreadCapture
        do throws(KernelError) {
            threads = ThreadCapture(clocks: try HostClocks())
            if let first = snapshot.processes.first { image.clocks = try ServiceClocks.read(pid: first.pid) }
        } catch {
            throw ResourceError("unit \(inspector.unit)", "cannot read its clocks", cause: error)
        }
        var vdsoDigest: Bytes?
        for process in snapshot.processes {
            if process.isZombie { throw ResourceError("process \(process.pid)", "has ended and was not reaped") }
            var captured = try capture(process, threads)
            // One kernel has one vdso.
            if vdsoDigest == nil { vdsoDigest = try self.vdsoDigest(process) }
            captured.layout.vdsoDigest = vdsoDigest ?? Bytes()
            image.processes.append(captured)
        }
        try captureDescriptions(&image)
        if let sharedFailure {
            throw ResourceError("unit \(inspector.unit)", "cannot open its shared memory", cause: sharedFailure)
        }
        image.sharedMemory = shared.images
        image.filterChains = filters.chains
        return CapturedService(image: image, sharedSources: shared.sources, holds: holds)
    }

    private func vdsoDigest(_ process: ProcessSnapshot) throws(ResourceError) -> Bytes {
        do throws(KernelError) { return try ServiceInspector.vdsoDigest(process.mappings) } catch {
            throw ResourceError("process \(process.pid)", "cannot read its vdso", cause: error)
        }
    }

    private func capture(
        _ process: ProcessSnapshot, _ threads: ThreadCapture
    ) throws(ResourceError) -> ProcessImage {
        let leader = process.leader
        let record = process.task.process
        let executable: FileIdentity
        do throws(KernelError) {
            executable = try inspector.digests.identity(path: process.executable, opened: "/proc/\(process.pid)/exe")
        } catch {
            throw ResourceError("process \(process.pid)", "cannot read its executable", cause: error)
        }
        var image = ProcessImage(
            pid: process.pid, parent: leader.parent, group: leader.group, session: leader.session,
            executable: executable, workingDirectory: process.workingDirectory,
            rootDirectory: process.rootDirectory, umask: leader.umask)
        image.layout = record.layout
        image.signalActions = record.signalActions
        image.pendingSignals = record.pendingSignals
        image.intervalTimers = record.intervalTimers
        image.posixTimers = try PosixTimers.capture(pid: process.pid, record.posixTimers)
        image.limits = record.limits
        image.credentials = leader.credentials
        image.filterChain = try filters.index(process)
        Self.addMemorySettings(record, &image)
        image.isChildSubreaper = record.isChildSubreaper
        image.oomScoreAdjustment = record.oomScoreAdjustment
        image.exitSignal = leader.exitSignal
        for thread in process.task.threads { image.threads.append(try threads.image(of: thread)) }
        for mapping in process.mappings where mapping.name != "[vsyscall]" {
            guard let kind = MemoryKinds.kind(of: mapping) else {
                throw ResourceError(mapping.subject, "mappings of this kind cannot be carried")
            }
            image.vmas.append(try kind.capture(mapping, in: self))
        }
        try MemoryContent.addGuards(to: &image)
        for probe in process.descriptors {
            image.descriptors.append(
                DescriptorImage(
                    number: probe.number, closeOnExec: probe.flags & O_CLOEXEC != 0,
                    description: assignIndex(probe.description)))
        }
        return image
    }

    /// What a process has set for all of its memory.
    private static func addMemorySettings(_ record: ProcessRecord, _ image: inout ProcessImage) {
        // Bits MMF_… of include/linux/mm_types.h.
        let flags = record.memoryFlags
        image.dumpable = UInt8(flags & 3)
        image.coreDumpFilter = UInt32(flags >> 2 & 0x1ff)
        let isPartly = flags & (1 << 23) != 0
        image.transparentHugePagesDisabled = flags & (1 << 24) != 0 ? 1 : isPartly ? 3 : 0
        image.memoryDenyWriteExecute = UInt32(flags >> 28 & 3)
        image.mergesMemory = flags & (1 << 30) != 0
        // VM_LOCKED and VM_LOCKONFAULT; MCL_FUTURE and MCL_ONFAULT.
        if record.newMappings & 0x2000 != 0 { image.futureLocks = record.newMappings & 0x80000 != 0 ? 6 : 2 }
        // Pairs of bits, the second of each tells that it is registered; MEMBARRIER_CMD_REGISTER_….
        for (bit, command) in [(1, 4), (3, 2), (5, 6), (7, 8)] where record.membarrierState & (1 << UInt64(bit)) != 0 {
            image.memoryBarriers |= 1 << UInt32(command)
        }
    }

    private func assignIndex(_ identity: UInt64) -> Int32 {
        if let index = descriptionIndices[identity] { return index }
        let index = Int32(descriptionIndices.count)
        descriptionIndices[identity] = index
        return index
    }

    /// Every description once, when all of them have their index.
    private func captureDescriptions(_ image: inout ServiceImage) throws(ResourceError) {
        var seen: Set<UInt64> = []
        for probe in snapshot.descriptors where seen.insert(probe.description).inserted {
            guard let kind = DescriptorKinds.kind(of: probe) else {
                throw ResourceError(probe.subject, "descriptors of this kind cannot be carried")
            }
            var description = DescriptionImage(
                kind: kind.name, statusFlags: probe.flags & ~O_CLOEXEC, payload: try kind.capture(probe, in: self))
            do throws(KernelError) { try addOwner(probe, &description) } catch {
                throw ResourceError(probe.subject, "cannot read its owner", cause: error)
            }
            image.descriptions.append(description)
        }
    }

    /// fcntl(2) F_GETOWN_EX and F_GETSIG; O_PATH descriptors have neither.
    private func addOwner(_ probe: DescriptorProbe, _ description: inout DescriptionImage) throws(KernelError) {
        // O_PATH.
        if probe.flags & 0o10000000 != 0 { return }
        let descriptor = try take(pid: probe.pid, number: probe.number)
        let raw = descriptor.raw
        // struct f_owner_ex: type, pid.
        var owner: (type: Int32, pid: Int32) = (0, 0)
        try systemCall("fcntl", on: probe.subject) {
            withUnsafeMutablePointer(to: &owner) { ck_fcntl(raw, 16, Int(bitPattern: $0)) }
        }
        description.ownerType = owner.pid == 0 ? 0 : owner.type
        description.owner = owner.pid
        description.ownerSignal = try systemCall("fcntl", on: probe.subject) { ck_fcntl(raw, 11, 0) }
    }

    // MARK: CaptureContext

    public func take(pid: Int32, number: Int32) throws(KernelError) -> FileDescriptor {
        if let process = processes[pid] { return try process.pidfd.take(number) }
        let process = try Process(pid)
        processes[pid] = process
        return try process.pidfd.take(number)
    }

    public func index(ofDescription identity: UInt64) -> Int32? { descriptionIndices[identity] }

    public func sharedMemoryIndex(device: UInt64, inode: UInt64) -> Int32? {
        do throws(KernelError) {
            return try shared.index(device: device, inode: inode)
        } catch {
            // The protocol has no way to say why; the capture fails with it at its end.
            sharedFailure = error
            return nil
        }
    }

    public func identity(path: String, ofProcess pid: Int32) throws(KernelError) -> FileIdentity {
        let root: String
        if let known = roots[pid] {
            root = known
        } else {
            // The check has refused those without.
            root = ProcessView.root(of: pid) ?? "/proc/\(pid)/root"
            roots[pid] = root
        }
        return try inspector.digests.identity(path: path, opened: root + path)
    }

    public func hold(_ descriptor: consuming FileDescriptor, undo: @escaping @Sendable (Int32) -> Void) {
        holds.add(descriptor, undo: undo)
    }
}
