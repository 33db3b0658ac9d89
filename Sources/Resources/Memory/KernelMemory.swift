import Kernel
import ProcessImage

/// The vdso: each kernel brings its own; the restore moves it to the address the service knows.
public enum VdsoMemory: MemoryKind {
    public static let kind = VMAImage.Kind.vdso

    public static func recognises(_ probe: VMAProbe) -> Bool { probe.name == "[vdso]" }

    public static func capture(_ probe: VMAProbe, in context: any CaptureContext) throws(ResourceError) -> VMAImage {
        MappingCalls.image(probe, kind)
    }

    public static func privateContent(
        _ vma: VMAImage, pagemap: borrowing FileDescriptor
    ) throws(ResourceError) -> [Range<UInt64>] { [] }

    /// The move itself is made for vdso and vvar together, before anything else is mapped.
    public static func restore(
        _ vma: VMAImage, in embryo: any EmbryoPort, context: any RestoreContext
    ) throws(ResourceError) {}

    public static func seal(_ vma: VMAImage, in embryo: any EmbryoPort) throws(ResourceError) {}
}

/// The kernel's data pages beside the vdso.
public enum VvarMemory: MemoryKind {
    public static let kind = VMAImage.Kind.vvar

    public static func recognises(_ probe: VMAProbe) -> Bool { probe.name.hasPrefix("[vvar") }

    public static func capture(_ probe: VMAProbe, in context: any CaptureContext) throws(ResourceError) -> VMAImage {
        MappingCalls.image(probe, kind)
    }

    public static func privateContent(
        _ vma: VMAImage, pagemap: borrowing FileDescriptor
    ) throws(ResourceError) -> [Range<UInt64>] { [] }

    public static func restore(
        _ vma: VMAImage, in embryo: any EmbryoPort, context: any RestoreContext
    ) throws(ResourceError) {}

    public static func seal(_ vma: VMAImage, in embryo: any EmbryoPort) throws(ResourceError) {}
}
