import CKernel
import Glibc
import Kernel
import ProcessImage

/// Private anonymous memory, heap and stacks among it.
public enum AnonymousMemory: MemoryKind {
    public static let kind = VMAImage.Kind.anonymous
    private static let setVma = 0x5356_4d41

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
        var calls = [MappingCalls.map(vma, sharing: MAP_PRIVATE, descriptor: nil)] + MappingCalls.early(vma)
        if let name = vma.file?.path, name.hasPrefix("[anon:"), name.hasSuffix("]") {
            // A kernel without anonymous names still carries the memory.
            calls.append(
                EmbryoCall(
                    Int32(SYS_prctl),
                    [
                        .int(setVma), .int(0), .address(vma.start), .int(Int(vma.end - vma.start)),
                        .path(String(name.dropFirst(6).dropLast())),
                    ], on: vma.subject, mustSucceed: false))
        }
        try MappingCalls.run(calls, vma, in: embryo, "cannot map")
    }
}
