import Kernel
import ProcessImage

/// Every kind of mapping that can be carried; the support matrix is this list.
public enum MemoryKinds {
    /// In the order in which they are asked.
    public static let all: [any MemoryKind.Type] = [
        VdsoMemory.self, VvarMemory.self, SharedObjectMemory.self, PrivateObjectMemory.self, SharedFileMemory.self,
        PrivateFileMemory.self, AnonymousMemory.self,
    ]

    /// The kind of a mapping found on the source; nil for what nothing here can carry.
    public static func kind(of probe: VMAProbe) -> (any MemoryKind.Type)? { all.first { $0.recognises(probe) } }

    /// The kind of a captured mapping.
    public static func of(_ vma: VMAImage) -> any MemoryKind.Type {
        switch vma.kind {
        case .anonymous: AnonymousMemory.self
        case .filePrivate: PrivateFileMemory.self
        case .fileShared: SharedFileMemory.self
        case .sharedMemory: SharedObjectMemory.self
        case .sharedMemoryPrivate: PrivateObjectMemory.self
        case .vdso: VdsoMemory.self
        case .vvar: VvarMemory.self
        }
    }

    /// The check of one mapping, whatever it is.
    public static func check(_ probe: VMAProbe, in context: CheckContext) -> [Refusal] {
        let general = MemoryChecks.refusals(probe)
        if !general.isEmpty { return general }
        if let kind = kind(of: probe) { return kind.check(probe, in: context) }
        return [
            MemoryChecks.refusal(
                probe, "mappings of this kind cannot be carried", "configure the service not to use it")
        ]
    }
}
