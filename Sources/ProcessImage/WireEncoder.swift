/// Opaque bytes inside an image: encoded as length and content, not value by value.
public struct Bytes: Codable, Hashable, Sendable {
    public var content: [UInt8]
    public init(_ content: [UInt8] = []) { self.content = content }
    public var count: Int { content.count }
    public var isEmpty: Bool { content.isEmpty }

    public init(from decoder: any Decoder) throws {
        guard let wire = decoder as? WireDecoder else { throw WireError.foreignCoder }
        content = try wire.state.takeBlock()
    }

    public func encode(to encoder: any Encoder) throws {
        guard let wire = encoder as? WireEncoder else { throw WireError.foreignCoder }
        wire.state.putBlock(content)
    }
}

/// Why bytes from the wire are not the value they claim to be.
public enum WireError: Error, Equatable, Sendable, CustomStringConvertible {
    case truncated(at: Int)
    case limitExceeded(what: String, value: Int, limit: Int)
    case invalid(what: String, at: Int)
    case trailingBytes(Int)
    case foreignCoder

    public var description: String {
        switch self {
        case .truncated(let offset): "message ends at byte \(offset) in the middle of a value"
        case .limitExceeded(let what, let value, let limit): "\(what) is \(value), at most \(limit) is allowed"
        case .invalid(let what, let offset): "invalid \(what) at byte \(offset)"
        case .trailingBytes(let count): "\(count) bytes follow the end of the message"
        case .foreignCoder: "images are only read and written in their wire form"
        }
    }
}

/// The wire form of images: the values of a `Codable` type in the order of their declaration, without names.
///
/// Integers are LEB128 (signed ones zig-zag first), floating point is its bit pattern, strings and `Bytes` are
/// length and content, optionals are a presence byte, collections are a count and their elements. Both ends
/// agree on the shape through the protocol version of their greeting, so nothing describes itself.
public final class WireEncoder: Encoder {
    final class State {
        var bytes: [UInt8] = []
        func putVarint(_ value: UInt64) {
            var rest = value
            while rest >= 0x80 {
                bytes.append(UInt8(truncatingIfNeeded: rest) | 0x80)
                rest >>= 7
            }
            bytes.append(UInt8(rest))
        }
        func putSigned(_ value: Int64) { putVarint(UInt64(bitPattern: (value << 1) ^ (value >> 63))) }
        func putBlock(_ block: [UInt8]) {
            putVarint(UInt64(block.count))
            bytes += block
        }
    }

    let state: State
    public var codingPath: [any CodingKey] { [] }
    public var userInfo: [CodingUserInfoKey: Any] { [:] }
    init(_ state: State = State()) { self.state = state }

    public static func encode<Value: Encodable>(_ value: Value) throws -> [UInt8] {
        let encoder = WireEncoder()
        try encoder.put(value)
        return encoder.state.bytes
    }

    func put<Value: Encodable>(_ value: Value) throws {
        // The commonest array would cost a container call a byte otherwise.
        if let bytes = value as? [UInt8] { state.putBlock(bytes) } else { try value.encode(to: self) }
    }

    public func container<Key: CodingKey>(keyedBy type: Key.Type) -> KeyedEncodingContainer<Key> {
        KeyedEncodingContainer(Keyed<Key>(encoder: self))
    }
    public func unkeyedContainer() -> any UnkeyedEncodingContainer { Unkeyed(encoder: self) }
    public func singleValueContainer() -> any SingleValueEncodingContainer { Single(encoder: self) }

    struct Single: SingleValueEncodingContainer {
        let encoder: WireEncoder
        var codingPath: [any CodingKey] { [] }
        mutating func encodeNil() { encoder.state.bytes.append(0) }
        mutating func encode(_ value: Bool) { encoder.state.bytes.append(value ? 1 : 0) }
        mutating func encode(_ value: String) { encoder.state.putBlock([UInt8](value.utf8)) }
        mutating func encode(_ value: Double) { encoder.state.putVarint(value.bitPattern) }
        mutating func encode(_ value: Float) { encoder.state.putVarint(UInt64(value.bitPattern)) }
        mutating func encode(_ value: Int) { encoder.state.putSigned(Int64(value)) }
        mutating func encode(_ value: Int8) { encoder.state.putSigned(Int64(value)) }
        mutating func encode(_ value: Int16) { encoder.state.putSigned(Int64(value)) }
        mutating func encode(_ value: Int32) { encoder.state.putSigned(Int64(value)) }
        mutating func encode(_ value: Int64) { encoder.state.putSigned(value) }
        mutating func encode(_ value: UInt) { encoder.state.putVarint(UInt64(value)) }
        mutating func encode(_ value: UInt8) { encoder.state.putVarint(UInt64(value)) }
        mutating func encode(_ value: UInt16) { encoder.state.putVarint(UInt64(value)) }
        mutating func encode(_ value: UInt32) { encoder.state.putVarint(UInt64(value)) }
        mutating func encode(_ value: UInt64) { encoder.state.putVarint(value) }
        mutating func encode<Value: Encodable>(_ value: Value) throws { try encoder.put(value) }
    }

    struct Keyed<Key: CodingKey>: KeyedEncodingContainerProtocol {
        let encoder: WireEncoder
        var codingPath: [any CodingKey] { [] }
        private var single: Single {
            get { Single(encoder: encoder) }
            set {}
        }
        init(encoder: WireEncoder) { self.encoder = encoder }
        mutating func encodeNil(forKey key: Key) { encoder.state.bytes.append(0) }
        mutating func encode(_ value: Bool, forKey key: Key) { single.encode(value) }
        mutating func encode(_ value: String, forKey key: Key) { single.encode(value) }
        mutating func encode(_ value: Double, forKey key: Key) { single.encode(value) }
        mutating func encode(_ value: Float, forKey key: Key) { single.encode(value) }
        mutating func encode(_ value: Int, forKey key: Key) { single.encode(value) }
        mutating func encode(_ value: Int8, forKey key: Key) { single.encode(value) }
        mutating func encode(_ value: Int16, forKey key: Key) { single.encode(value) }
        mutating func encode(_ value: Int32, forKey key: Key) { single.encode(value) }
        mutating func encode(_ value: Int64, forKey key: Key) { single.encode(value) }
        mutating func encode(_ value: UInt, forKey key: Key) { single.encode(value) }
        mutating func encode(_ value: UInt8, forKey key: Key) { single.encode(value) }
        mutating func encode(_ value: UInt16, forKey key: Key) { single.encode(value) }
        mutating func encode(_ value: UInt32, forKey key: Key) { single.encode(value) }
        mutating func encode(_ value: UInt64, forKey key: Key) { single.encode(value) }
        mutating func encode<Value: Encodable>(_ value: Value, forKey key: Key) throws { try encoder.put(value) }
        mutating func encodeIfPresent<Value: Encodable>(_ value: Value?, forKey key: Key) throws {
            encoder.state.bytes.append(value == nil ? 0 : 1)
            if let value { try encoder.put(value) }
        }
        mutating func encodeIfPresent(_ value: Bool?, forKey key: Key) throws { try optional(value) }
        mutating func encodeIfPresent(_ value: String?, forKey key: Key) throws { try optional(value) }
        mutating func encodeIfPresent(_ value: Int?, forKey key: Key) throws { try optional(value) }
        mutating func encodeIfPresent(_ value: Int32?, forKey key: Key) throws { try optional(value) }
        mutating func encodeIfPresent(_ value: Int64?, forKey key: Key) throws { try optional(value) }
        mutating func encodeIfPresent(_ value: UInt8?, forKey key: Key) throws { try optional(value) }
        mutating func encodeIfPresent(_ value: UInt16?, forKey key: Key) throws { try optional(value) }
        mutating func encodeIfPresent(_ value: UInt32?, forKey key: Key) throws { try optional(value) }
        mutating func encodeIfPresent(_ value: UInt64?, forKey key: Key) throws { try optional(value) }
        private func optional<Value: Encodable>(_ value: Value?) throws {
            encoder.state.bytes.append(value == nil ? 0 : 1)
            if let value { try encoder.put(value) }
        }
        mutating func nestedContainer<Nested: CodingKey>(
            keyedBy type: Nested.Type, forKey key: Key
        ) -> KeyedEncodingContainer<Nested> { encoder.container(keyedBy: type) }
        mutating func nestedUnkeyedContainer(forKey key: Key) -> any UnkeyedEncodingContainer {
            encoder.unkeyedContainer()
        }
        mutating func superEncoder() -> any Encoder { encoder }
        mutating func superEncoder(forKey key: Key) -> any Encoder { encoder }
    }

    /// Elements are gathered apart because the count, known only at the end, goes before them.
    final class Unkeyed: UnkeyedEncodingContainer {
        let parent: WireEncoder
        let inner = WireEncoder()
        private(set) var count = 0
        var codingPath: [any CodingKey] { [] }
        init(encoder: WireEncoder) { parent = encoder }
        deinit {
            parent.state.putVarint(UInt64(count))
            parent.state.bytes += inner.state.bytes
        }
        func encodeNil() {
            count += 1
            inner.state.bytes.append(0)
        }
        func encode<Value: Encodable>(_ value: Value) throws {
            count += 1
            try inner.put(value)
        }
        func nestedContainer<Nested: CodingKey>(keyedBy type: Nested.Type) -> KeyedEncodingContainer<Nested> {
            count += 1
            return inner.container(keyedBy: type)
        }
        func nestedUnkeyedContainer() -> any UnkeyedEncodingContainer {
            count += 1
            return inner.unkeyedContainer()
        }
        func superEncoder() -> any Encoder { inner }
    }
}
