import CDBus

/// A value of the D-Bus type system, with all that its signature says.
public indirect enum BusValue: Equatable, Sendable {
    case boolean(Bool)
    case int32(Int32)
    case uint32(UInt32)
    case int64(Int64)
    case uint64(UInt64)
    case double(Double)
    case string(String)
    case objectPath(String)
    case signature(String)
    /// Elements of one type; `of` is its signature, which an empty array needs.
    case array(of: String, [BusValue])
    case structure([BusValue])
    /// `a{sv}`: the dictionary of options and properties.
    case dictionary([String: BusValue])
    case variant(BusValue)

    /// The value's signature, D-Bus specification, "Type System".
    public var signature: String {
        switch self {
        case .boolean: "b"
        case .int32: "i"
        case .uint32: "u"
        case .int64: "x"
        case .uint64: "t"
        case .double: "d"
        case .string: "s"
        case .objectPath: "o"
        case .signature: "g"
        case .array(let element, _): "a" + element
        case .structure(let fields): "(" + fields.map(\.signature).joined() + ")"
        case .dictionary: "a{sv}"
        case .variant: "v"
        }
    }

    public var text: String? {
        switch self {
        case .string(let text), .objectPath(let text), .signature(let text): text
        case .variant(let inner): inner.text
        default: nil
        }
    }

    public var flag: Bool? {
        switch self {
        case .boolean(let flag): flag
        case .variant(let inner): inner.flag
        default: nil
        }
    }

    /// Any unsigned number.
    public var number: UInt64? {
        switch self {
        case .uint32(let number): UInt64(number)
        case .uint64(let number): number
        case .variant(let inner): inner.number
        default: nil
        }
    }

    public var elements: [BusValue]? {
        switch self {
        case .array(_, let elements), .structure(let elements): elements
        case .variant(let inner): inner.elements
        default: nil
        }
    }

    public var entries: [String: BusValue]? {
        switch self {
        case .dictionary(let entries): entries
        case .variant(let inner): inner.entries
        default: nil
        }
    }
}

// MARK: Writing

extension BusValue {
    /// Appends the value at `iterator`, dbus_message_iter_append_basic(3).
    /// False if libdbus is out of memory or the value is not valid (a path that is none).
    func append(to iterator: inout DBusMessageIter) -> Bool {
        switch self {
        case .boolean(let value): Self.appendBasic(&iterator, "b", dbus_bool_t(value ? 1 : 0))
        case .int32(let value): Self.appendBasic(&iterator, "i", value)
        case .uint32(let value): Self.appendBasic(&iterator, "u", value)
        case .int64(let value): Self.appendBasic(&iterator, "x", value)
        case .uint64(let value): Self.appendBasic(&iterator, "t", value)
        case .double(let value): Self.appendBasic(&iterator, "d", value)
        case .string(let value): Self.appendText(&iterator, "s", value)
        case .objectPath(let value):
            dbus_validate_path(value, nil) != 0 && Self.appendText(&iterator, "o", value)
        case .signature(let value):
            dbus_signature_validate(value, nil) != 0 && Self.appendText(&iterator, "g", value)
        case .array(let element, let values):
            Self.appendContainer(&iterator, "a", element) { inner in values.allSatisfy { $0.append(to: &inner) } }
        case .structure(let fields):
            Self.appendContainer(&iterator, "r", nil) { inner in fields.allSatisfy { $0.append(to: &inner) } }
        case .variant(let value):
            Self.appendContainer(&iterator, "v", value.signature) { value.append(to: &$0) }
        case .dictionary(let entries): Self.append(entries, to: &iterator)
        }
    }

    private static func append(_ entries: [String: BusValue], to iterator: inout DBusMessageIter) -> Bool {
        appendContainer(&iterator, "a", "{sv}") { inner in
            entries.sorted { $0.key < $1.key }.allSatisfy { key, value in
                let boxed: BusValue = if case .variant = value { value } else { .variant(value) }
                return appendContainer(&inner, "e", nil) { entry in
                    BusValue.string(key).append(to: &entry) && boxed.append(to: &entry)
                }
            }
        }
    }

    private static func code(_ type: Unicode.Scalar) -> Int32 { Int32(type.value) }

    private static func appendBasic<Value>(
        _ iterator: inout DBusMessageIter, _ type: Unicode.Scalar, _ value: Value
    ) -> Bool {
        withUnsafePointer(to: value) { dbus_message_iter_append_basic(&iterator, code(type), $0) } != 0
    }

    private static func appendText(
        _ iterator: inout DBusMessageIter, _ type: Unicode.Scalar, _ text: String
    ) -> Bool {
        text.withCString { appendBasic(&iterator, type, $0) }
    }

    private static func appendContainer(
        _ iterator: inout DBusMessageIter, _ type: Unicode.Scalar, _ contents: String?,
        _ body: (inout DBusMessageIter) -> Bool
    ) -> Bool {
        var inner = DBusMessageIter()
        guard dbus_message_iter_open_container(&iterator, code(type), contents, &inner) != 0 else { return false }
        guard body(&inner) else {
            dbus_message_iter_abandon_container(&iterator, &inner)
            return false
        }
        return dbus_message_iter_close_container(&iterator, &inner) != 0
    }
}

// MARK: Reading

extension BusValue {
    /// Reads the value at `iterator`, which stays there; nil for a type that no interface here uses.
    static func read(from iterator: inout DBusMessageIter) -> BusValue? {
        let type = dbus_message_iter_get_arg_type(&iterator)
        switch Unicode.Scalar(UInt32(type)) {
        case "b": return .boolean(basic(&iterator, dbus_bool_t(0)) != 0)
        case "i": return .int32(basic(&iterator, 0))
        case "u": return .uint32(basic(&iterator, 0))
        case "x": return .int64(basic(&iterator, 0))
        case "t": return .uint64(basic(&iterator, 0))
        case "d": return .double(basic(&iterator, 0))
        case "s": return .string(text(&iterator))
        case "o": return .objectPath(text(&iterator))
        case "g": return .signature(text(&iterator))
        case "v": return contents(&iterator)?.first.map { .variant($0) }
        case "r": return contents(&iterator).map { .structure($0) }
        case "a": return array(&iterator)
        default: return nil
        }
    }

    /// All values from `iterator` to the end of its container.
    static func readAll(_ iterator: inout DBusMessageIter) -> [BusValue]? {
        var values: [BusValue] = []
        while dbus_message_iter_get_arg_type(&iterator) != 0 {
            guard let value = read(from: &iterator) else { return nil }
            values.append(value)
            dbus_message_iter_next(&iterator)
        }
        return values
    }

    private static func basic<Value: BitwiseCopyable>(_ iterator: inout DBusMessageIter, _ initial: Value) -> Value {
        var value = initial
        dbus_message_iter_get_basic(&iterator, &value)
        return value
    }

    private static func text(_ iterator: inout DBusMessageIter) -> String {
        var pointer: UnsafePointer<CChar>?
        dbus_message_iter_get_basic(&iterator, &pointer)
        return pointer.map { String(cString: $0) } ?? ""
    }

    private static func contents(_ iterator: inout DBusMessageIter) -> [BusValue]? {
        var inner = DBusMessageIter()
        dbus_message_iter_recurse(&iterator, &inner)
        return readAll(&inner)
    }

    private static func array(_ iterator: inout DBusMessageIter) -> BusValue? {
        var inner = DBusMessageIter()
        dbus_message_iter_recurse(&iterator, &inner)
        if dbus_message_iter_get_element_type(&iterator) == code("e") { return dictionary(&inner) }
        guard let signature = dbus_message_iter_get_signature(&inner) else { return nil }
        defer { dbus_free(signature) }
        let element = String(cString: signature)
        return readAll(&inner).map { .array(of: element, $0) }
    }

    /// Entries whose keys are strings; a value that is not a variant is kept as if it were one.
    private static func dictionary(_ iterator: inout DBusMessageIter) -> BusValue? {
        var entries: [String: BusValue] = [:]
        while dbus_message_iter_get_arg_type(&iterator) == code("e") {
            guard let pair = contents(&iterator), pair.count == 2, let key = pair[0].text else { return nil }
            if case .variant(let value) = pair[1] { entries[key] = value } else { entries[key] = pair[1] }
            dbus_message_iter_next(&iterator)
        }
        return .dictionary(entries)
    }
}
