import BusContract
import CDBus
import Glibc

/// A private connection to the system bus, by libdbus. Blocking; for one thread at a time.
final class Connection {
    private let raw: OpaquePointer
    private var matches: Set<String> = []
    /// Whether polkit may ask a person, as the flag ALLOW_INTERACTIVE_AUTHORIZATION of each call.
    var allowsInteraction = false

    /// How long a call may take.
    enum Timeout {
        /// libdbus's own, 25 s.
        case standard
        /// Until the answer comes or the peer is gone.
        case never

        var milliseconds: Int32 { self == .standard ? -1 : Int32.max }
    }

    /// Connects to `address`, else to `DBUS_SYSTEM_BUS_ADDRESS`, else to the standard socket.
    ///
    /// dbus_bus_get_private(3) would do the same, but remembers the first address for the life of the process.
    init(address: String?) throws(MobilityError) {
        let address =
            address ?? getenv("DBUS_SYSTEM_BUS_ADDRESS").map { String(cString: $0) }
            ?? "unix:path=/run/dbus/system_bus_socket"
        let raw = try withBusError { error in dbus_connection_open_private(address, error) }
        self.raw = raw
        dbus_connection_set_exit_on_disconnect(raw, 0)
        try withBusCall { error in _ = dbus_bus_register(raw, error) }
    }

    deinit {
        dbus_connection_close(raw)
        dbus_connection_unref(raw)
    }

    /// Calls a method of mobilityd and waits for the answer.
    func call(
        _ path: String, _ interface: String, _ member: String, _ arguments: [BusValue] = [],
        timeout: Timeout = .standard, destination: String = BusName.service
    ) throws(MobilityError) -> [BusValue] {
        guard dbus_validate_path(path, nil) != 0,
            let message = dbus_message_new_method_call(destination, path, interface, member)
        else {
            throw MobilityError(
                name: "org.freedesktop.DBus.Error.InvalidArgs", message: "'\(path)' is not an object path")
        }
        defer { dbus_message_unref(message) }
        dbus_message_set_allow_interactive_authorization(message, allowsInteraction ? 1 : 0)
        var iterator = DBusMessageIter()
        dbus_message_iter_init_append(message, &iterator)
        for argument in arguments where !argument.append(to: &iterator) {
            throw MobilityError(
                name: "org.freedesktop.DBus.Error.InvalidArgs", message: "\(member) cannot be given \(argument)")
        }
        let reply = try withBusError { [raw] error in
            dbus_connection_send_with_reply_and_block(raw, message, timeout.milliseconds, error)
        }
        defer { dbus_message_unref(reply) }
        return try Self.body(reply, member)
    }

    private static func body(_ message: OpaquePointer, _ member: String) throws(MobilityError) -> [BusValue] {
        var iterator = DBusMessageIter()
        guard dbus_message_iter_init(message, &iterator) != 0 else { return [] }
        guard let values = BusValue.readAll(&iterator) else {
            let signature = dbus_message_get_signature(message).map { String(cString: $0) } ?? "?"
            throw .malformed(member, signature)
        }
        return values
    }

    /// Has the bus deliver mobilityd's signals from now on.
    func subscribe() throws(MobilityError) {
        let rule = "type='signal',sender='\(BusName.service)',path_namespace='\(BusName.root)'"
        if matches.contains(rule) { return }
        try withBusCall { [raw] error in dbus_bus_add_match(raw, rule, error) }
        matches.insert(rule)
    }

    /// A signal as received.
    struct Signal {
        var path: String
        var interface: String
        var member: String
        var body: [BusValue]
    }

    /// The signals that are there, after waiting for the first until `deadline` of the monotonic clock, nanoseconds.
    func signals(until deadline: Int64) throws(MobilityError) -> [Signal] {
        var signals: [Signal] = []
        while true {
            while let message = dbus_connection_pop_message(raw) {
                defer { dbus_message_unref(message) }
                if let signal = try Self.signal(message) { signals.append(signal) }
            }
            if !signals.isEmpty { return signals }
            let rest = deadline - Self.now()
            if rest <= 0 { return [] }
            let milliseconds = Int32(clamping: rest / 1_000_000 + 1)
            if dbus_connection_read_write(raw, milliseconds) == 0 {
                throw MobilityError(name: "org.freedesktop.DBus.Error.Disconnected", message: "the bus is gone")
            }
        }
    }

    private static func signal(_ message: OpaquePointer) throws(MobilityError) -> Signal? {
        guard dbus_message_get_type(message) == DBUS_MESSAGE_TYPE_SIGNAL,
            let path = dbus_message_get_path(message), let interface = dbus_message_get_interface(message),
            let member = dbus_message_get_member(message)
        else { return nil }
        let name = String(cString: member)
        return Signal(
            path: String(cString: path), interface: String(cString: interface), member: name,
            body: try body(message, name))
    }

    static func now() -> Int64 {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
    }
}

/// Runs a call of libdbus that returns null and fills a DBusError when it fails.
private func withBusError(
    _ body: (UnsafeMutablePointer<DBusError>) -> OpaquePointer?
) throws(MobilityError) -> OpaquePointer {
    var error = DBusError()
    dbus_error_init(&error)
    defer { dbus_error_free(&error) }
    if let result = body(&error) { return result }
    throw mobilityError(error)
}

/// Runs a call of libdbus whose only sign of failure is the DBusError.
private func withBusCall(_ body: (UnsafeMutablePointer<DBusError>) -> Void) throws(MobilityError) {
    var error = DBusError()
    dbus_error_init(&error)
    defer { dbus_error_free(&error) }
    body(&error)
    if dbus_error_is_set(&error) != 0 { throw mobilityError(error) }
}

private func mobilityError(_ error: DBusError) -> MobilityError {
    MobilityError(
        name: error.name.map { String(cString: $0) } ?? "org.freedesktop.DBus.Error.NoMemory",
        message: error.message.map { String(cString: $0) } ?? "libdbus gave no reason")
}
