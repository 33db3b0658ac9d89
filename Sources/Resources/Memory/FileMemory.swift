import CKernel
import Glibc
import Kernel
import ProcessImage

/// A private mapping of a file: text and data of programs and libraries.
public enum PrivateFileMemory: MemoryKind {
    public static let kind = VMAImage.Kind.filePrivate

    public static func recognises(_ probe: VMAProbe) -> Bool { !probe.isShared && MemoryChecks.isFile(probe) }

    public static func capture(_ probe: VMAProbe, in context: any CaptureContext) throws(ResourceError) -> VMAImage {
        try FileMapping.capture(probe, kind, in: context)
    }

    public static func privateContent(
        _ vma: VMAImage, pagemap: borrowing FileDescriptor
    ) throws(ResourceError) -> [Range<UInt64>] {
        try MemoryContent.privatePages(vma, pagemap: pagemap)
    }

    public static func restore(
        _ vma: VMAImage, in embryo: any EmbryoPort, context: any RestoreContext
    ) throws(ResourceError) {
        try FileMapping.restore(vma, sharing: MAP_PRIVATE, in: embryo)
    }
}

/// A shared mapping of a file; its content is the file's.
public enum SharedFileMemory: MemoryKind {
    public static let kind = VMAImage.Kind.fileShared

    public static func recognises(_ probe: VMAProbe) -> Bool { probe.isShared && MemoryChecks.isFile(probe) }

    public static func capture(_ probe: VMAProbe, in context: any CaptureContext) throws(ResourceError) -> VMAImage {
        var vma = try FileMapping.capture(probe, kind, in: context)
        vma.fileWritable = probe.flags.contains("mw")
        return vma
    }

    public static func privateContent(
        _ vma: VMAImage, pagemap: borrowing FileDescriptor
    ) throws(ResourceError) -> [Range<UInt64>] { [] }

    public static func restore(
        _ vma: VMAImage, in embryo: any EmbryoPort, context: any RestoreContext
    ) throws(ResourceError) {
        try FileMapping.restore(vma, sharing: MAP_SHARED, in: embryo)
    }
}

enum FileMapping {
    static func capture(
        _ probe: VMAProbe, _ kind: VMAImage.Kind, in context: any CaptureContext
    ) throws(ResourceError) -> VMAImage {
        var vma = MappingCalls.image(probe, kind)
        do throws(KernelError) { vma.file = try context.identity(path: probe.name, ofProcess: probe.pid) } catch {
            throw ResourceError(probe.subject, "cannot identify the mapped file", cause: error)
        }
        return vma
    }

    static func restore(_ vma: VMAImage, sharing: Int32, in embryo: any EmbryoPort) throws(ResourceError) {
        guard let file = vma.file else { throw ResourceError(vma.subject, "the image names no file") }
        let access = vma.fileWritable ? O_RDWR : O_RDONLY
        var map = MappingCalls.map(vma, sharing: sharing, descriptor: .int(0))
        map.takes = (4, 1)
        let calls =
            [
                EmbryoCall(Int32(SYS_open), [.path(file.path), .int(access | O_CLOEXEC), .int(0)], on: file.path),
                map,
                EmbryoCall(Int32(SYS_close), [.int(0)], on: file.path, takes: (0, 2)),
            ] + MappingCalls.early(vma)
        try MappingCalls.run(calls, vma, in: embryo, "cannot map the file")
    }
}
