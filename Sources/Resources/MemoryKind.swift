import Kernel
import ProcessImage

/// One mapping of one process as /proc/PID/smaps shows it.
public struct VMAProbe: Sendable {
    public var pid: Int32
    public var start: UInt64
    public var end: UInt64
    /// PROT_READ | PROT_WRITE | PROT_EXEC.
    public var protection: Int32
    public var isShared: Bool
    public var offset: UInt64
    public var device: UInt64
    public var inode: UInt64
    /// As shown: a path, `[heap]`, `/dev/zero (deleted)`, `/memfd:x (deleted)`, `/SYSV00000000 (deleted)`, or empty.
    public var name: String
    /// The VmFlags line, two-letter words.
    public var flags: [String]

    public init(
        pid: Int32, start: UInt64, end: UInt64, protection: Int32, isShared: Bool, offset: UInt64, device: UInt64,
        inode: UInt64, name: String, flags: [String]
    ) {
        self.pid = pid
        self.start = start
        self.end = end
        self.protection = protection
        self.isShared = isShared
        self.offset = offset
        self.device = device
        self.inode = inode
        self.name = name
        self.flags = flags
    }

    public var subject: String {
        "pid \(pid) mapping \(String(start, radix: 16))-\(String(end, radix: 16))\(name.isEmpty ? "" : " (\(name))")"
    }
}

/// One kind of mapping: its check, its capture and its restore side by side.
public protocol MemoryKind: SendableMetatype {
    static var kind: VMAImage.Kind { get }
    static func recognises(_ probe: VMAProbe) -> Bool
    static func check(_ probe: VMAProbe, in context: CheckContext) -> [Refusal]
    /// The mapping's record; contents go separately.
    static func capture(_ probe: VMAProbe, in context: any CaptureContext) throws(ResourceError) -> VMAImage
    /// The ranges of this mapping whose content must be sent because nothing on the destination has it:
    /// virtual addresses, page aligned, ascending, adjacent ones merged. `pagemap` is /proc/PID/pagemap.
    static func privateContent(_ vma: VMAImage, pagemap: borrowing FileDescriptor) throws(ResourceError) -> [Range<
        UInt64
    >]
    /// Maps it at its final address in `embryo`, writable where content will be written; final protection and
    /// advice are set by `seal`.
    static func restore(
        _ vma: VMAImage, in embryo: any EmbryoPort, context: any RestoreContext
    ) throws(ResourceError)
    /// After all content is in place: final protection, madvise, mlock.
    static func seal(_ vma: VMAImage, in embryo: any EmbryoPort) throws(ResourceError)
}
