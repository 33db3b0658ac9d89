import CSystemd
import Glibc
import Kernel

/// A call to the service manager, or the connection to it, that failed.
public struct SystemdError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The method, `StartUnit`.
    public let call: String
    /// What it was done to: a unit; empty when there is nothing to name.
    public let object: String
    /// The D-Bus error's name, `org.freedesktop.systemd1.NoSuchUnit`.
    public let name: String
    /// The sender's own text.
    public let message: String

    public init(call: String, object: String, name: String, message: String) {
        self.call = call
        self.object = object
        self.name = name
        self.message = message
    }

    init(_ call: String, _ object: String, code: Int32) {
        let text = "\(Errno(rawValue: abs(code)))"
        self.init(call: call, object: object, name: "org.freedesktop.DBus.Error.Failed", message: text)
    }

    public var description: String { "systemd: \(call) \(object): \(message) [\(name)]" }
}

/// A value of a D-Bus message in the shape of its type.
indirect enum BusValue {
    case text(String)
    case number(UInt64)
    case signed(Int64)
    case flag(Bool)
    case real(Double)
    /// `ay`
    case bytes([UInt8])
    case list([BusValue])
    /// Structures and dictionary entries.
    case fields([BusValue])

    var string: String { if case .text(let text) = self { text } else { "" } }
    var unsigned: UInt64 { if case .number(let number) = self { number } else { 0 } }
    var bool: Bool { if case .flag(let flag) = self { flag } else { false } }
    var octets: [UInt8] { if case .bytes(let bytes) = self { bytes } else { [] } }
    var items: [BusValue] {
        switch self {
        case .list(let items), .fields(let items): items
        default: []
        }
    }
    var strings: [String] { items.map(\.string) }
}

/// One message of sd-bus(3). Everything that touches the library's pointers is in this file.
final class BusMessage {
    fileprivate let raw: OpaquePointer

    /// Takes over the caller's reference.
    fileprivate init(owning raw: OpaquePointer) { self.raw = raw }

    deinit { sd_bus_message_unref(raw) }

    var member: String { sd_bus_message_get_member(raw).map { String(cString: $0) } ?? "" }
    var sender: String { sd_bus_message_get_sender(raw).map { String(cString: $0) } ?? "" }

    /// Appends `s`; returns the library's negative error number or not negative.
    func append(_ text: String) -> Int32 { text.withCString { sd_bus_message_append_basic(raw, type("s"), $0) } }

    /// Appends `as`.
    func append(_ list: [String]) -> Int32 {
        var code = sd_bus_message_open_container(raw, type("a"), "s")
        for text in list where code >= 0 { code = append(text) }
        return code < 0 ? code : sd_bus_message_close_container(raw)
    }

    /// All values of the message, in order.
    func values() throws(SystemdError) -> [BusValue] {
        var result: [BusValue] = []
        while let value = try next() { result.append(value) }
        return result
    }

    private func type(_ letter: Unicode.Scalar) -> CChar { CChar(truncatingIfNeeded: letter.value) }

    private func checked(_ code: Int32) throws(SystemdError) -> Int32 {
        if code < 0 { throw SystemdError("read", member, code: code) }
        return code
    }

    /// The next value; nil at the end of the container or message.
    private func next() throws(SystemdError) -> BusValue? {
        var letter: CChar = 0
        var contents: UnsafePointer<CChar>?
        if try checked(sd_bus_message_peek_type(raw, &letter, &contents)) == 0 { return nil }
        let kind = Character(Unicode.Scalar(UInt8(bitPattern: letter)))
        switch kind {
        case "a", "r", "e", "v":
            let inner = contents.map { String(cString: $0) } ?? ""
            if kind == "a" && inner == "y" { return .bytes(try octets()) }
            _ = try checked(sd_bus_message_enter_container(raw, letter, inner))
            let items = try values()
            _ = try checked(sd_bus_message_exit_container(raw))
            if kind == "v" { return items.first }
            return kind == "a" ? .list(items) : .fields(items)
        case "s", "o", "g":
            var text: UnsafePointer<CChar>?
            _ = try checked(sd_bus_message_read_basic(raw, letter, &text))
            return .text(text.map { String(cString: $0) } ?? "")
        default: return try scalar(letter, kind)
        }
    }

    private func scalar(_ letter: CChar, _ kind: Character) throws(SystemdError) -> BusValue {
        // Large enough and aligned for every basic type; the library writes as many bytes as the type has.
        var storage: UInt64 = 0
        _ = try checked(sd_bus_message_read_basic(raw, letter, &storage))
        switch kind {
        case "b": return .flag(UInt32(truncatingIfNeeded: storage) != 0)
        case "n": return .signed(Int64(Int16(truncatingIfNeeded: storage)))
        case "i", "h": return .signed(Int64(Int32(truncatingIfNeeded: storage)))
        case "x": return .signed(Int64(bitPattern: storage))
        case "d": return .real(Double(bitPattern: storage))
        default: return .number(storage)
        }
    }

    private func octets() throws(SystemdError) -> [UInt8] {
        var start: UnsafeRawPointer?
        var count = 0
        _ = try checked(sd_bus_message_read_array(raw, type("y"), &start, &count))
        guard let start else { return [] }
        return [UInt8](UnsafeRawBufferPointer(start: start, count: count))
    }
}

/// A connection to the system bus, sd_bus_open_system(3), used by the one thread that made it.
final class Bus {
    private let raw: OpaquePointer

    init() throws(SystemdError) {
        var bus: OpaquePointer?
        let code = sd_bus_open_system(&bus)
        guard code >= 0, let bus else { throw SystemdError("connect", "system bus", code: code) }
        raw = bus
    }

    deinit { sd_bus_flush_close_unref(raw) }

    /// Calls a method and waits at most `timeout` nanoseconds for its reply.
    ///
    /// - Parameter object: what an error names.
    func call(
        _ destination: String, _ path: String, _ interface: String, _ member: String, on object: String,
        timeout: Int64, arguments: (BusMessage) -> Int32 = { _ in 0 }
    ) throws(SystemdError) -> BusMessage {
        var made: OpaquePointer?
        let code = sd_bus_message_new_method_call(raw, &made, destination, path, interface, member)
        guard code >= 0, let made else { throw SystemdError(member, object, code: code) }
        let request = BusMessage(owning: made)
        let appended = arguments(request)
        guard appended >= 0 else { throw SystemdError(member, object, code: appended) }
        var failure = sd_bus_error()
        defer { sd_bus_error_free(&failure) }
        var reply: OpaquePointer?
        // 0 would mean the library's default of 25 s.
        let microseconds = UInt64(max(1, timeout / 1000))
        let result = sd_bus_call(raw, request.raw, microseconds, &failure, &reply)
        guard result >= 0, let reply else {
            guard let name = failure.name else { throw SystemdError(member, object, code: result) }
            let text = failure.message.map { String(cString: $0) } ?? ""
            throw SystemdError(call: member, object: object, name: String(cString: name), message: text)
        }
        return BusMessage(owning: reply)
    }

    /// Has signals that match `rule` delivered to `nextMessage`, until the connection ends.
    func match(_ rule: String) throws(SystemdError) {
        // The handler declines every message, so that the library hands it on to whoever processes the bus.
        let code = sd_bus_add_match(raw, nil, rule, { _, _, _ in 0 }, nil)
        guard code >= 0 else { throw SystemdError("AddMatch", rule, code: code) }
    }

    /// The next message that is no reply; nil when `deadline` (CLOCK_MONOTONIC, nanoseconds) passes without one.
    func nextMessage(until deadline: Int64) throws(SystemdError) -> BusMessage? {
        while true {
            var message: OpaquePointer?
            let code = sd_bus_process(raw, &message)
            guard code >= 0 else { throw SystemdError("process", "system bus", code: code) }
            if let message { return BusMessage(owning: message) }
            if code > 0 { continue }
            let left = deadline - Clock.monotonic
            if left <= 0 { return nil }
            let waited = sd_bus_wait(raw, UInt64(left / 1000 + 1))
            guard waited >= 0 || waited == -EINTR else { throw SystemdError("wait", "system bus", code: waited) }
        }
    }
}
