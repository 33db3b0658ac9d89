import CSystemd
import Glibc
import Kernel

/// A call of libsystemd that failed: which, on what, and why.
public struct BusCallError: Error, Equatable, Sendable, CustomStringConvertible {
    public let call: String
    public let object: String
    public let code: Errno

    public var description: String { object.isEmpty ? "\(call): \(code)" : "\(call) \(object): \(code)" }
}

/// Turns libsystemd's negative error number into an error.
@discardableResult
func busCall(_ call: StaticString, on object: @autoclosure () -> String = "", _ result: Int32)
    throws(BusCallError) -> Int32
{
    if result >= 0 { return result }
    throw BusCallError(call: "\(call)", object: object(), code: Errno(rawValue: -result))
}

extension CChar {
    /// The type code of a D-Bus signature.
    init(type: Unicode.Scalar) { self = CChar(truncatingIfNeeded: type.value) }
}

/// The value of an option, read from a variant.
enum IncomingValue: Sendable {
    case boolean(Bool)
    case unsigned(UInt64)
    case text(String)

    var boolean: Bool { if case .boolean(let value) = self { value } else { false } }
    var unsigned: UInt64 { if case .unsigned(let value) = self { value } else { 0 } }
    var text: String { if case .text(let value) = self { value } else { "" } }
}

/// A message received, with a reference of its own, so that it can be answered later. sd_bus_message_read(3).
final class Incoming {
    let raw: OpaquePointer

    init(_ raw: OpaquePointer) {
        self.raw = raw
        sd_bus_message_ref(raw)
    }

    deinit { sd_bus_message_unref(raw) }

    var path: String { sd_bus_message_get_path(raw).map { String(cString: $0) } ?? "" }
    var interface: String { sd_bus_message_get_interface(raw).map { String(cString: $0) } ?? "" }
    var member: String { sd_bus_message_get_member(raw).map { String(cString: $0) } ?? "" }
    var sender: String { sd_bus_message_get_sender(raw).map { String(cString: $0) } ?? "" }
    var allowsInteraction: Bool { sd_bus_message_get_allow_interactive_authorization(raw) > 0 }

    func string() throws(BusCallError) -> String {
        var text: UnsafePointer<CChar>?
        try read("s", &text)
        return text.map { String(cString: $0) } ?? ""
    }

    func boolean() throws(BusCallError) -> Bool {
        var value: Int32 = 0
        try read("b", &value)
        return value != 0
    }

    func unsigned64() throws(BusCallError) -> UInt64 {
        var value: UInt64 = 0
        try read("t", &value)
        return value
    }

    private func read(_ type: Unicode.Scalar, _ target: UnsafeMutableRawPointer) throws(BusCallError) {
        let result = try busCall("sd_bus_message_read_basic", sd_bus_message_read_basic(raw, .init(type: type), target))
        if result == 0 { throw BusCallError(call: "sd_bus_message_read_basic", object: "end", code: .invalidArgument) }
    }

    func enter(_ type: Unicode.Scalar, _ contents: String) throws(BusCallError) {
        try busCall(
            "sd_bus_message_enter_container", sd_bus_message_enter_container(raw, .init(type: type), contents))
    }

    /// Enters the next element; false at the array's end.
    func tryEnter(_ type: Unicode.Scalar, _ contents: String) throws(BusCallError) -> Bool {
        try busCall(
            "sd_bus_message_enter_container", sd_bus_message_enter_container(raw, .init(type: type), contents)) > 0
    }

    func leave() throws(BusCallError) {
        try busCall("sd_bus_message_exit_container", sd_bus_message_exit_container(raw))
    }

    /// The signature of the variant at the message's position.
    func variantSignature() throws(BusCallError) -> String {
        var contents: UnsafePointer<CChar>?
        try busCall("sd_bus_message_peek_type", sd_bus_message_peek_type(raw, nil, &contents))
        return contents.map { String(cString: $0) } ?? ""
    }

    /// The variant at the message's position, whose signature is `b`, `t` or `s`.
    func variant(_ signature: String) throws(BusCallError) -> IncomingValue {
        try enter("v", signature)
        let value: IncomingValue =
            switch signature {
            case "b": .boolean(try boolean())
            case "t": .unsigned(try unsigned64())
            default: .text(try string())
            }
        try leave()
        return value
    }
}

/// A message being built. sd_bus_message_append(3) without its variable arguments.
struct Outgoing {
    let raw: OpaquePointer

    /// Borrows `raw`.
    init(_ raw: OpaquePointer) { self.raw = raw }

    func string(_ value: String, as type: Unicode.Scalar = "s") throws(BusCallError) {
        let result = value.withCString { sd_bus_message_append_basic(raw, .init(type: type), $0) }
        try busCall("sd_bus_message_append_basic", on: value, result)
    }

    func path(_ value: String) throws(BusCallError) { try string(value, as: "o") }

    func boolean(_ value: Bool) throws(BusCallError) {
        var number: Int32 = value ? 1 : 0
        try busCall("sd_bus_message_append_basic", sd_bus_message_append_basic(raw, .init(type: "b"), &number))
    }

    func unsigned32(_ value: UInt32) throws(BusCallError) {
        var number = value
        try busCall("sd_bus_message_append_basic", sd_bus_message_append_basic(raw, .init(type: "u"), &number))
    }

    func unsigned64(_ value: UInt64) throws(BusCallError) {
        var number = value
        try busCall("sd_bus_message_append_basic", sd_bus_message_append_basic(raw, .init(type: "t"), &number))
    }

    func container(
        _ type: Unicode.Scalar, _ contents: String, _ body: () throws(BusCallError) -> Void
    ) throws(BusCallError) {
        try busCall("sd_bus_message_open_container", sd_bus_message_open_container(raw, .init(type: type), contents))
        try body()
        try busCall("sd_bus_message_close_container", sd_bus_message_close_container(raw))
    }

    /// `a…`: one element for each of `elements`.
    func array<Element>(
        of contents: String, _ elements: [Element], _ body: (Element) throws(BusCallError) -> Void
    ) throws(BusCallError) {
        try container("a", contents) { () throws(BusCallError) in
            for element in elements { try body(element) }
        }
    }

    /// `(…)`.
    func structure(_ contents: String, _ body: () throws(BusCallError) -> Void) throws(BusCallError) {
        try container("r", contents, body)
    }
}

/// Runs `body` with a null-terminated array of C strings, as the `strv` arguments of libsystemd want it; `-ENOMEM`
/// where memory is out.
func withStringVector(
    _ strings: [String], _ body: (UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>) -> Int32
) -> Int32 {
    guard let vector = makeStringVector(strings) else { return -ENOMEM }
    defer {
        for index in 0..<strings.count { free(vector[index]) }
        free(vector)
    }
    return body(vector)
}

/// A null-terminated array of C strings, both malloc'ed; the receiver frees them. Nil where memory is out.
func makeStringVector(_ strings: [String]) -> UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>? {
    guard let memory = calloc(strings.count + 1, MemoryLayout<UnsafeMutablePointer<CChar>?>.stride) else { return nil }
    let vector = memory.bindMemory(to: UnsafeMutablePointer<CChar>?.self, capacity: strings.count + 1)
    for (index, string) in strings.enumerated() { vector[index] = strdup(string) }
    return vector
}
