/// Reads what `WireEncoder` wrote; every count and length is checked against the bytes that are really there
/// before anything is allocated for it.
public final class WireDecoder: Decoder {
    final class State {
        let bytes: [UInt8]
        var offset = 0
        var depth = 0
        init(_ bytes: [UInt8]) { self.bytes = bytes }

        func takeByte() throws -> UInt8 {
            guard offset < bytes.count else { throw WireError.truncated(at: offset) }
            defer { offset += 1 }
            return bytes[offset]
        }
        func takeFlag(_ what: String) throws -> Bool {
            let byte = try takeByte()
            guard byte <= 1 else { throw WireError.invalid(what: what, at: offset - 1) }
            return byte == 1
        }
        func takeVarint() throws -> UInt64 {
            var value: UInt64 = 0
            var shift: UInt64 = 0
            while true {
                let byte = try takeByte()
                let part = UInt64(byte & 0x7f)
                guard shift < 63 || (shift == 63 && part <= 1) else {
                    throw WireError.invalid(what: "integer", at: offset - 1)
                }
                value |= part << shift
                if byte & 0x80 == 0 { return value }
                shift += 7
            }
        }
        func takeSigned() throws -> Int64 {
            let raw = try takeVarint()
            return Int64(bitPattern: raw >> 1) ^ -Int64(bitPattern: raw & 1)
        }
        func takeCount(_ what: String) throws -> Int {
            let count = try takeVarint()
            // Every element is at least one byte, so a larger count cannot be honest.
            guard count <= UInt64(bytes.count - offset) else {
                throw WireError.limitExceeded(
                    what: what, value: Int(clamping: count), limit: bytes.count - offset)
            }
            return Int(count)
        }
        func takeBlock() throws -> [UInt8] {
            let count = try takeCount("block length")
            defer { offset += count }
            return Array(bytes[offset..<offset + count])
        }
        func takeInteger<Value: FixedWidthInteger>(_ type: Value.Type) throws -> Value {
            let start = offset
            let value: Value? =
                Value.isSigned ? Value(exactly: try takeSigned()) : Value(exactly: try takeVarint())
            guard let value else { throw WireError.invalid(what: "\(type)", at: start) }
            return value
        }
    }

    /// Deeper nesting than any image has is an attack on the stack.
    static let maximumDepth = 32

    let state: State
    public var codingPath: [any CodingKey] { [] }
    public var userInfo: [CodingUserInfoKey: Any] { [:] }
    init(_ state: State) { self.state = state }

    public static func decode<Value: Decodable>(_ type: Value.Type, from bytes: [UInt8]) throws(WireError) -> Value {
        let decoder = WireDecoder(State(bytes))
        do {
            let value = try decoder.take(type)
            let rest = bytes.count - decoder.state.offset
            guard rest == 0 else { throw WireError.trailingBytes(rest) }
            return value
        } catch let error as WireError {
            throw error
        } catch {
            throw WireError.invalid(what: "\(type)", at: decoder.state.offset)
        }
    }

    func take<Value: Decodable>(_ type: Value.Type) throws -> Value {
        if type == [UInt8].self, let bytes = try state.takeBlock() as? Value { return bytes }
        state.depth += 1
        defer { state.depth -= 1 }
        guard state.depth <= Self.maximumDepth else {
            throw WireError.limitExceeded(what: "nesting", value: state.depth, limit: Self.maximumDepth)
        }
        return try type.init(from: self)
    }

    public func container<Key: CodingKey>(keyedBy type: Key.Type) -> KeyedDecodingContainer<Key> {
        KeyedDecodingContainer(Keyed<Key>(decoder: self))
    }
    public func unkeyedContainer() throws -> any UnkeyedDecodingContainer {
        Unkeyed(decoder: self, count: try state.takeCount("element count"))
    }
    public func singleValueContainer() -> any SingleValueDecodingContainer { Single(decoder: self) }

    struct Single: SingleValueDecodingContainer {
        let decoder: WireDecoder
        var codingPath: [any CodingKey] { [] }
        private var state: State { decoder.state }
        /// Only optionals ask, and their presence byte stands before the value.
        func decodeNil() -> Bool {
            guard let present = try? state.takeFlag("presence") else { return true }
            return !present
        }
        func decode(_ type: Bool.Type) throws -> Bool { try state.takeFlag("boolean") }
        func decode(_ type: String.Type) throws -> String {
            let start = state.offset
            guard let text = String(validating: try state.takeBlock(), as: UTF8.self) else {
                throw WireError.invalid(what: "UTF-8", at: start)
            }
            return text
        }
        func decode(_ type: Double.Type) throws -> Double { Double(bitPattern: try state.takeVarint()) }
        func decode(_ type: Float.Type) throws -> Float { Float(bitPattern: try state.takeInteger(UInt32.self)) }
        func decode(_ type: Int.Type) throws -> Int { try state.takeInteger(type) }
        func decode(_ type: Int8.Type) throws -> Int8 { try state.takeInteger(type) }
        func decode(_ type: Int16.Type) throws -> Int16 { try state.takeInteger(type) }
        func decode(_ type: Int32.Type) throws -> Int32 { try state.takeInteger(type) }
        func decode(_ type: Int64.Type) throws -> Int64 { try state.takeInteger(type) }
        func decode(_ type: UInt.Type) throws -> UInt { try state.takeInteger(type) }
        func decode(_ type: UInt8.Type) throws -> UInt8 { try state.takeInteger(type) }
        func decode(_ type: UInt16.Type) throws -> UInt16 { try state.takeInteger(type) }
        func decode(_ type: UInt32.Type) throws -> UInt32 { try state.takeInteger(type) }
        func decode(_ type: UInt64.Type) throws -> UInt64 { try state.takeInteger(type) }
        func decode<Value: Decodable>(_ type: Value.Type) throws -> Value { try decoder.take(type) }
    }

    struct Keyed<Key: CodingKey>: KeyedDecodingContainerProtocol {
        let decoder: WireDecoder
        var codingPath: [any CodingKey] { [] }
        var allKeys: [Key] { [] }
        private var single: Single { Single(decoder: decoder) }
        init(decoder: WireDecoder) { self.decoder = decoder }
        func contains(_ key: Key) -> Bool { true }
        func decodeNil(forKey key: Key) throws -> Bool { try !decoder.state.takeFlag("presence") }
        func decode(_ type: Bool.Type, forKey key: Key) throws -> Bool { try single.decode(type) }
        func decode(_ type: String.Type, forKey key: Key) throws -> String { try single.decode(type) }
        func decode(_ type: Double.Type, forKey key: Key) throws -> Double { try single.decode(type) }
        func decode(_ type: Float.Type, forKey key: Key) throws -> Float { try single.decode(type) }
        func decode(_ type: Int.Type, forKey key: Key) throws -> Int { try single.decode(type) }
        func decode(_ type: Int8.Type, forKey key: Key) throws -> Int8 { try single.decode(type) }
        func decode(_ type: Int16.Type, forKey key: Key) throws -> Int16 { try single.decode(type) }
        func decode(_ type: Int32.Type, forKey key: Key) throws -> Int32 { try single.decode(type) }
        func decode(_ type: Int64.Type, forKey key: Key) throws -> Int64 { try single.decode(type) }
        func decode(_ type: UInt.Type, forKey key: Key) throws -> UInt { try single.decode(type) }
        func decode(_ type: UInt8.Type, forKey key: Key) throws -> UInt8 { try single.decode(type) }
        func decode(_ type: UInt16.Type, forKey key: Key) throws -> UInt16 { try single.decode(type) }
        func decode(_ type: UInt32.Type, forKey key: Key) throws -> UInt32 { try single.decode(type) }
        func decode(_ type: UInt64.Type, forKey key: Key) throws -> UInt64 { try single.decode(type) }
        func decode<Value: Decodable>(_ type: Value.Type, forKey key: Key) throws -> Value { try decoder.take(type) }
        func nestedContainer<Nested: CodingKey>(
            keyedBy type: Nested.Type, forKey key: Key
        ) throws -> KeyedDecodingContainer<Nested> { decoder.container(keyedBy: type) }
        func nestedUnkeyedContainer(forKey key: Key) throws -> any UnkeyedDecodingContainer {
            try decoder.unkeyedContainer()
        }
        func superDecoder() throws -> any Decoder { decoder }
        func superDecoder(forKey key: Key) throws -> any Decoder { decoder }
    }

    struct Unkeyed: UnkeyedDecodingContainer {
        let decoder: WireDecoder
        let count: Int?
        var currentIndex = 0
        var codingPath: [any CodingKey] { [] }
        var isAtEnd: Bool { currentIndex >= (count ?? 0) }
        init(decoder: WireDecoder, count: Int) {
            self.decoder = decoder
            self.count = count
        }
        mutating func decodeNil() throws -> Bool {
            currentIndex += 1
            return try !decoder.state.takeFlag("presence")
        }
        mutating func decode<Value: Decodable>(_ type: Value.Type) throws -> Value {
            guard !isAtEnd else { throw WireError.truncated(at: decoder.state.offset) }
            currentIndex += 1
            return try decoder.take(type)
        }
        mutating func nestedContainer<Nested: CodingKey>(
            keyedBy type: Nested.Type
        ) throws -> KeyedDecodingContainer<Nested> {
            currentIndex += 1
            return decoder.container(keyedBy: type)
        }
        mutating func nestedUnkeyedContainer() throws -> any UnkeyedDecodingContainer {
            currentIndex += 1
            return try decoder.unkeyedContainer()
        }
        mutating func superDecoder() throws -> any Decoder { decoder }
    }
}
