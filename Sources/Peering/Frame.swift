/// One message on a channel.
public struct Message: Equatable, Sendable {
    public let type: UInt16
    /// Given meaning by the message type; carried unchanged.
    public let flags: UInt16
    public let payload: [UInt8]

    public init(type: UInt16, flags: UInt16 = 0, payload: [UInt8] = []) {
        self.type = type
        self.flags = flags
        self.payload = payload
    }
}

/// How long a payload of each type may be.
public struct FrameLimits: Sendable {
    /// Bytes for a type that is not bulk: 1 MiB.
    public static let ordinary = 1 << 20
    /// Bytes for a bulk type: 64 MiB.
    public static let bulk = 64 << 20

    private let bulkTypes: Set<UInt16>

    public init(bulkTypes: Set<UInt16> = []) { self.bulkTypes = bulkTypes }

    /// The longest payload of `type`, bytes.
    public func limit(_ type: UInt16) -> Int {
        if type == Hello.messageType { return Hello.sizeLimit }
        return bulkTypes.contains(type) ? Self.bulk : Self.ordinary
    }
}

/// How a frame breaks the protocol.
public enum FrameViolation: Error, Equatable, Sendable, CustomStringConvertible {
    case magic(UInt32)
    case version(UInt16)
    case reserved(UInt16)
    case length(type: UInt16, length: UInt32, limit: Int)
    /// Bytes were offered after an earlier violation.
    case poisoned

    public var description: String {
        switch self {
        case .magic(let value): return "frame magic 0x\(String(value, radix: 16))"
        case .version(let value): return "frame version \(value)"
        case .reserved(let value): return "reserved field holds \(value)"
        case .length(let type, let length, let limit):
            return "message of type \(type) claims \(length) bytes, its limit is \(limit)"
        case .poisoned: return "bytes after a violation"
        }
    }
}

/// The 16 bytes before each payload, all little-endian: magic u32, version u16, type u16, flags u16, reserved u16
/// (zero), length u32.
struct FrameHeader: Equatable, Sendable {
    static let size = 16
    /// "MOB1" as it stands on the wire.
    static let magic: UInt32 = 0x3142_4f4d
    /// The version of the framing, not of the protocol above it, which Hello negotiates.
    static let version: UInt16 = 1

    var type: UInt16
    var flags: UInt16
    var length: UInt32

    func encoded() -> [UInt8] {
        var writer = ByteWriter()
        writer.put(Self.magic)
        writer.put(Self.version)
        writer.put(type)
        writer.put(flags)
        writer.put(UInt16(0))
        writer.put(length)
        return writer.bytes
    }

    init(type: UInt16, flags: UInt16, length: UInt32) {
        self.type = type
        self.flags = flags
        self.length = length
    }

    /// `bytes` holds exactly `size` bytes.
    init(_ bytes: [UInt8], limits: FrameLimits) throws(FrameViolation) {
        func word(_ at: Int) -> UInt16 { UInt16(bytes[at]) | UInt16(bytes[at + 1]) << 8 }
        func long(_ at: Int) -> UInt32 { UInt32(word(at)) | UInt32(word(at + 2)) << 16 }
        guard long(0) == Self.magic else { throw .magic(long(0)) }
        guard word(4) == Self.version else { throw .version(word(4)) }
        guard word(10) == 0 else { throw .reserved(word(10)) }
        self.init(type: word(6), flags: word(8), length: long(12))
        let limit = limits.limit(type)
        guard Int(length) <= limit else { throw .length(type: type, length: length, limit: limit) }
    }
}

/// Turns a byte stream, cut anywhere, into messages. Pure: no I/O, no clock.
///
/// A header is judged before anything is allocated for its payload, so memory never exceeds the limit of the claimed
/// type. After a violation the decoder refuses everything.
public struct FrameDecoder: Sendable {
    private let limits: FrameLimits
    private var headerBytes: [UInt8] = []
    private var header: FrameHeader?
    private var payload: [UInt8] = []
    private var poisoned = false

    public init(limits: FrameLimits) {
        self.limits = limits
        headerBytes.reserveCapacity(FrameHeader.size)
    }

    /// Whether the stream may end here without cutting a message.
    public var isBetweenMessages: Bool { headerBytes.isEmpty && header == nil && !poisoned }

    /// Bytes reserved for the payload under construction.
    public var reservedBytes: Int { payload.capacity }

    /// Takes all of `bytes` and appends the messages they complete.
    public mutating func decode(_ bytes: [UInt8], into messages: inout [Message]) throws(FrameViolation) {
        try decode(bytes.span.bytes, into: &messages)
    }

    /// Takes all of `bytes` and appends the messages they complete.
    public mutating func decode(_ bytes: RawSpan, into messages: inout [Message]) throws(FrameViolation) {
        if poisoned { throw .poisoned }
        var at = 0
        while at < bytes.byteCount {
            if let current = header {
                let count = min(Int(current.length) - payload.count, bytes.byteCount - at)
                bytes.extracting(at..<at + count).withUnsafeBytes { payload.append(contentsOf: $0) }
                at += count
                finishIfComplete(current, into: &messages)
            } else {
                headerBytes.append(bytes.unsafeLoad(fromByteOffset: at, as: UInt8.self))
                at += 1
                if headerBytes.count == FrameHeader.size { try startPayload(into: &messages) }
            }
        }
    }

    private mutating func startPayload(into messages: inout [Message]) throws(FrameViolation) {
        do throws(FrameViolation) {
            let next = try FrameHeader(headerBytes, limits: limits)
            headerBytes.removeAll(keepingCapacity: true)
            header = next
            payload.reserveCapacity(Int(next.length))
            finishIfComplete(next, into: &messages)
        } catch {
            poisoned = true
            throw error
        }
    }

    private mutating func finishIfComplete(_ current: FrameHeader, into messages: inout [Message]) {
        guard payload.count == Int(current.length) else { return }
        messages.append(Message(type: current.type, flags: current.flags, payload: payload))
        payload = []
        header = nil
    }
}
