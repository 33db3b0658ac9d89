import CKernel
import Glibc
import Kernel
import ProcessImage

/// A shared mapping of memory that has no disk behind it: MAP_SHARED | MAP_ANONYMOUS, a memfd, a file of /dev/shm.
///
/// All its mappings, in all processes, are of one object that the restore makes once.
public enum SharedObjectMemory: MemoryKind {
    public static let kind = VMAImage.Kind.sharedMemory

    public static func recognises(_ probe: VMAProbe) -> Bool {
        probe.isShared && MemoryChecks.isSharedObject(probe)
    }

    public static func capture(_ probe: VMAProbe, in context: any CaptureContext) throws(ResourceError) -> VMAImage {
        try ObjectMapping.capture(probe, kind, in: context)
    }

    /// The object's content is sent once, by offset, not by mapping.
    public static func privateContent(
        _ vma: VMAImage, pagemap: borrowing FileDescriptor
    ) throws(ResourceError) -> [Range<UInt64>] { [] }

    public static func restore(
        _ vma: VMAImage, in embryo: any EmbryoPort, context: any RestoreContext
    ) throws(ResourceError) {
        try ObjectMapping.restore(vma, sharing: MAP_SHARED, in: embryo, context: context)
    }
}

/// A private mapping of such an object: its own pages travel like those of a file's private mapping.
public enum PrivateObjectMemory: MemoryKind {
    public static let kind = VMAImage.Kind.sharedMemoryPrivate

    public static func recognises(_ probe: VMAProbe) -> Bool {
        !probe.isShared && MemoryChecks.isSharedObject(probe)
    }

    public static func capture(_ probe: VMAProbe, in context: any CaptureContext) throws(ResourceError) -> VMAImage {
        try ObjectMapping.capture(probe, kind, in: context)
    }

    public static func privateContent(
        _ vma: VMAImage, pagemap: borrowing FileDescriptor
    ) throws(ResourceError) -> [Range<UInt64>] {
        try MemoryContent.privatePages(vma, pagemap: pagemap)
    }

    public static func restore(
        _ vma: VMAImage, in embryo: any EmbryoPort, context: any RestoreContext
    ) throws(ResourceError) {
        try ObjectMapping.restore(vma, sharing: MAP_PRIVATE, in: embryo, context: context)
    }
}

enum ObjectMapping {
    static func capture(
        _ probe: VMAProbe, _ kind: VMAImage.Kind, in context: any CaptureContext
    ) throws(ResourceError) -> VMAImage {
        var vma = MappingCalls.image(probe, kind)
        guard let index = context.sharedMemoryIndex(device: probe.device, inode: probe.inode) else {
            throw ResourceError(probe.subject, "its shared memory object was not captured")
        }
        vma.shared = index
        vma.fileWritable = probe.flags.contains("mw")
        if probe.name.hasPrefix("[anon_shmem:") { vma.file = FileIdentity(path: probe.name) }
        return vma
    }

    static func restore(
        _ vma: VMAImage, sharing: Int32, in embryo: any EmbryoPort, context: any RestoreContext
    ) throws(ResourceError) {
        let number: Int32
        do throws(KernelError) {
            let object = try context.take(sharedMemory: vma.shared)
            if sharing == MAP_SHARED && !vma.fileWritable {
                // Opened anew without the right to write, so that the mapping cannot become writable either.
                let narrow = try FileDescriptor.open("/proc/self/fd/\(object.raw)", O_RDONLY)
                number = try embryo.give(narrow, minimum: 0)
            } else {
                number = try embryo.give(object, minimum: 0)
            }
        } catch {
            throw ResourceError("pid \(embryo.pid) \(vma.subject)", "cannot reach the shared object", cause: error)
        }
        let calls =
            [
                MappingCalls.map(vma, sharing: sharing, descriptor: .int(number)),
                EmbryoCall(Int32(SYS_close), [.int(number)], on: vma.subject),
            ] + MappingCalls.early(vma) + MappingCalls.name(vma)
        try MappingCalls.run(calls, vma, in: embryo, "cannot map the shared object")
    }
}
