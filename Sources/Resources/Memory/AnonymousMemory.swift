import CKernel
import Glibc
import Kernel
import ProcessImage

/// Private anonymous memory, heap and stacks among it.
public enum AnonymousMemory: MemoryKind {
    public static let kind = VMAImage.Kind.anonymous

    public static func recognises(_ probe: VMAProbe) -> Bool {
        !probe.isShared && probe.inode == 0
            && (probe.name.isEmpty || probe.name == "[heap]" || probe.name == "[stack]"
                || probe.name.hasPrefix("[anon:"))
    }

    public static func capture(_ probe: VMAProbe, in context: any CaptureContext) throws(ResourceError) -> VMAImage {
        var vma = MappingCalls.image(probe, kind)
        vma.offset = 0
        if probe.name.hasPrefix("[anon:") { vma.file = FileIdentity(path: probe.name) }
        return vma
    }

    public static func privateContent(
        _ vma: VMAImage, pagemap: borrowing FileDescriptor
    ) throws(ResourceError) -> [Range<UInt64>] {
        try MemoryContent.privatePages(vma, pagemap: pagemap)
    }

    public static func restore(
        _ vma: VMAImage, in embryo: any EmbryoPort, context: any RestoreContext
    ) throws(ResourceError) {
        let calls =
            [MappingCalls.map(vma, sharing: MAP_PRIVATE, descriptor: nil)] + MappingCalls.early(vma)
            + MappingCalls.name(vma)
        try MappingCalls.run(calls, vma, in: embryo, "cannot map")
    }
}
