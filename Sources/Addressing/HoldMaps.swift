import Kernel

/// What the network does with the packets of one virtual address on this host.
public struct HoldMode: OptionSet, Sendable, Hashable {
    public let rawValue: UInt32
    public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// Connection requests (TCP SYN without ACK) wait; everything else passes.
    public static let holdSYN = HoldMode(rawValue: 1)
    /// Every IP packet for the address waits, neighbour discovery excepted.
    public static let hold = HoldMode(rawValue: 2)
    /// With `hold`: TCP segments still pass that fill a gap before what their connection has received out of order.
    public static let gaps = HoldMode(rawValue: 32)
    /// This host neither says that it has the address nor sends anything from it. Arriving packets are consumed and
    /// answered to nobody unless they are held too.
    public static let silent = HoldMode(rawValue: 4)
    /// With `silent`: who asks for the address is still told that it is here, until another host announces it. The
    /// programs take this off by themselves then.
    public static let answer = HoldMode(rawValue: 16)
    /// Waiting packets are being put back; one passes as soon as all before it have passed. Set by `release` alone.
    static let drain = HoldMode(rawValue: 8)
}

/// What has happened to the packets of one address since its queue was prepared.
public struct HoldCounters: Sendable, Equatable {
    /// Packets (large segments count once) and bytes that were made to wait, those given up at the bound included.
    public var heldPackets: UInt64
    public var heldBytes: UInt64
    /// Packets given up because the queue was full.
    public var droppedAtBound: UInt64
    /// Packets put back that reached the network stack, and later ones that passed while the queue was drained.
    public var passed: UInt64
    /// Packets that `silent` suppressed.
    public var silenced: UInt64
}

/// A key of the maps: struct hold_address of hold.h.
struct HoldAddress: BitwiseCopyable, Hashable {
    let high: UInt64
    let low: UInt64

    init(_ address: VirtualAddress) {
        let bytes = address.mapped
        high = bytes.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: 0, as: UInt64.self) }
        low = bytes.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: 8, as: UInt64.self) }
    }

    private init() {
        high = 0
        low = 0
    }

    static let empty = HoldAddress()

    /// The address alone, without the prefix it was annotated with.
    var virtualAddress: VirtualAddress? {
        let bytes = withUnsafeBytes(of: self) { Array($0) }
        let isIPv4 = bytes[..<10].allSatisfy { $0 == 0 } && bytes[10] == 0xff && bytes[11] == 0xff
        return VirtualAddress(bytes: isIPv4 ? Array(bytes[12...]) : bytes)
    }
}

/// struct hold_mode of hold.h.
struct HoldModeRecord: BitwiseCopyable {
    var flags: UInt32 = 0
    var tap: Int32 = 0
    var settled: Int64 = 0
}

/// struct hold_tally of hold.h.
struct HoldTallyRecord: BitwiseCopyable {
    var tickets: UInt64 = 0
    var passed: UInt64 = 0
    var packets: UInt64 = 0
    var bytes: UInt64 = 0
    var silenced: UInt64 = 0
}

/// The pinned maps and the loaded programs behind every queue of a host.
struct HoldPrograms: ~Copyable, Sendable {
    let object: ProgramObject
    let modes: ProgramMap
    let tallies: ProgramMap
    let taps: ProgramMap
    let handshakes: ProgramMap
    let handshakesUntil: ProgramMap
}

extension HoldQueue {
    /// Takes our programs off a NIC, for when mobilityd is removed from the host; others' filters stay. Repeatable.
    public static func uninstall(from nic: NetworkInterface) throws(AddressingError) {
        try ProgramObject.detach(from: nic, ingress: true)
        try ProgramObject.detach(from: nic, ingress: false)
    }
}
