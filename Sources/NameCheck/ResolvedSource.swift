import CSystemd
import Glibc
import Kernel

/// systemd-resolved on the system bus, org.freedesktop.resolve1(5).
final class ResolvedSource: RecordSource {
    private static let service = "org.freedesktop.resolve1"
    /// SD_RESOLVED_NO_SYNTHESIZE, NO_CACHE and NO_ZONE (src/resolve/resolved-def.h): neither /etc/hosts nor memory
    /// nor own zones, only what the name servers say.
    private static let flags: UInt64 = 1 << 11 | 1 << 12 | 1 << 13

    let label = "systemd-resolved"
    private let bus: OpaquePointer

    private init(_ bus: OpaquePointer) { self.bus = bus }

    deinit { sd_bus_flush_close_unref(bus) }

    /// Nil when there is no bus or resolved does not run; it is not started for this. `busAddress` names another bus.
    static func connect(busAddress: String? = nil) -> ResolvedSource? {
        var bus: OpaquePointer?
        if let busAddress {
            guard sd_bus_new(&bus) >= 0, sd_bus_set_address(bus, busAddress) >= 0,
                sd_bus_set_bus_client(bus, 1) >= 0, sd_bus_start(bus) >= 0
            else {
                sd_bus_unref(bus)
                return nil
            }
        } else if sd_bus_open_system(&bus) < 0 {
            return nil
        }
        guard let bus else { return nil }
        let source = ResolvedSource(bus)
        return source.isRunning ? source : nil
    }

    private var isRunning: Bool {
        var message: OpaquePointer?
        defer { sd_bus_message_unref(message) }
        let daemon = "org.freedesktop.DBus"
        let path = "/org/freedesktop/DBus"
        guard sd_bus_message_new_method_call(bus, &message, daemon, path, daemon, "NameHasOwner") >= 0,
            sd_bus_message_append_basic(message, CChar(UInt8(ascii: "s")), Self.service) >= 0
        else { return false }
        var reply: OpaquePointer?
        defer { sd_bus_message_unref(reply) }
        var owned: Int32 = 0
        return sd_bus_call(bus, message, 2_000_000, nil, &reply) >= 0
            && sd_bus_message_read_basic(reply, CChar(UInt8(ascii: "b")), &owned) > 0 && owned != 0
    }

    func ask(_ name: DomainName, _ type: RecordType, deadline: Deadline) -> RecordAnswer {
        var message: OpaquePointer?
        defer { sd_bus_message_unref(message) }
        var (interface, recordClass, recordType, flags) = (Int32(0), UInt16(1), type.rawValue, Self.flags)
        guard
            sd_bus_message_new_method_call(
                bus, &message, Self.service, "/org/freedesktop/resolve1", "org.freedesktop.resolve1.Manager",
                "ResolveRecord") >= 0,
            sd_bus_message_append_basic(message, CChar(UInt8(ascii: "i")), &interface) >= 0,
            sd_bus_message_append_basic(message, CChar(UInt8(ascii: "s")), "\(name)") >= 0,
            sd_bus_message_append_basic(message, CChar(UInt8(ascii: "q")), &recordClass) >= 0,
            sd_bus_message_append_basic(message, CChar(UInt8(ascii: "q")), &recordType) >= 0,
            sd_bus_message_append_basic(message, CChar(UInt8(ascii: "t")), &flags) >= 0
        else { return .serverFailure("cannot build the call of ResolveRecord") }
        var error = sd_bus_error()
        defer { sd_bus_error_free(&error) }
        var reply: OpaquePointer?
        defer { sd_bus_message_unref(reply) }
        // 0 would mean the bus's default of 25 s.
        let left = deadline == .never ? 25_000_000 : max(1, (deadline.nanoseconds - Clock.monotonic) / 1000)
        let result = sd_bus_call(bus, message, UInt64(left), &error, &reply)
        if result < 0 { return failure(result, error) }
        guard let records = Self.records(reply) else { return .serverFailure("malformed reply of systemd-resolved") }
        // resolved has followed the aliases: the owner may be another name.
        let found = records.filter { $0.type == type.rawValue }.map(\.content)
        return found.isEmpty ? .noData : .records(found)
    }

    private func failure(_ result: Int32, _ error: sd_bus_error) -> RecordAnswer {
        guard let text = error.name else {
            let code = Errno(rawValue: -result)
            return code == .timedOut ? .timeout : .serverFailure("\(code)")
        }
        switch String(cString: text) {
        case "org.freedesktop.resolve1.DnsError.NXDOMAIN": return .noSuchName
        case "org.freedesktop.resolve1.NoSuchRR": return .noData
        case "org.freedesktop.resolve1.QueryTimedOut", "org.freedesktop.DBus.Error.NoReply",
            "org.freedesktop.DBus.Error.Timeout":
            return .timeout
        case let name:
            let why = error.message.map { String(cString: $0) } ?? "no text"
            return .serverFailure("\(name): \(why)")
        }
    }

    /// The array a(iqqay): interface, class, type and the whole record in wire form.
    private static func records(_ reply: OpaquePointer?) -> [ResourceRecord]? {
        guard sd_bus_message_enter_container(reply, CChar(UInt8(ascii: "a")), "(iqqay)") >= 0 else { return nil }
        var records: [ResourceRecord] = []
        while true {
            let entered = sd_bus_message_enter_container(reply, CChar(UInt8(ascii: "r")), "iqqay")
            if entered < 0 { return nil }
            if entered == 0 { return records }
            var (interface, recordClass, type) = (Int32(0), UInt16(0), UInt16(0))
            var bytes: UnsafeRawPointer?
            var count = 0
            guard sd_bus_message_read_basic(reply, CChar(UInt8(ascii: "i")), &interface) > 0,
                sd_bus_message_read_basic(reply, CChar(UInt8(ascii: "q")), &recordClass) > 0,
                sd_bus_message_read_basic(reply, CChar(UInt8(ascii: "q")), &type) > 0,
                sd_bus_message_read_array(reply, CChar(UInt8(ascii: "y")), &bytes, &count) > 0,
                sd_bus_message_exit_container(reply) >= 0
            else { return nil }
            var cursor = DNSCursor(Array(UnsafeRawBufferPointer(start: bytes, count: count)))
            do throws(DNSFault) {
                if let record = try cursor.record() { records.append(record) }
            } catch { return nil }
        }
    }
}
