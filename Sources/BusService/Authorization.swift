import BusContract
import CSystemd
import Glibc
import Kernel

/// The actions that polkit decides about; described in `dbus/org.mobilityd1.policy`.
enum PolkitAction: String {
    case migrate = "org.mobilityd1.migrate"
    case check = "org.mobilityd1.check"
    case resolve = "org.mobilityd1.resolve"
    case manageNodes = "org.mobilityd1.manage-nodes"
    case reload = "org.mobilityd1.reload"
}

/// Who may do what: root everything, others what polkit grants, and nothing where polkit is absent.
extension BusService {
    /// A question to polkit that is on its way.
    private final class Query {
        let service: BusService
        let message: Incoming
        let action: PolkitAction
        let body: () throws -> Answer

        init(_ service: BusService, _ message: Incoming, _ action: PolkitAction, _ body: @escaping () throws -> Answer)
        {
            self.service = service
            self.message = message
            self.action = action
            self.body = body
        }
    }

    /// Runs `body` if the caller may do `action`: at once for root, else after polkit's answer.
    func authorized(
        _ action: PolkitAction, _ message: Incoming, details: [String: String], _ body: @escaping () throws -> Answer
    ) throws -> Answer {
        if try isRoot(message) { return try body() }
        try ask(Query(self, message, action, body), details)
        return .later
    }

    /// Whether the caller's effective user is root, by the credentials that the bus daemon vouches for.
    func isRoot(_ message: Incoming) throws -> Bool {
        var credentials: OpaquePointer?
        try busCall(
            "sd_bus_query_sender_creds", on: message.sender,
            sd_bus_query_sender_creds(message.raw, UInt64(SD_BUS_CREDS_EUID), &credentials))
        defer { sd_bus_creds_unref(credentials) }
        var user = uid_t.max
        try busCall("sd_bus_creds_get_euid", on: message.sender, sd_bus_creds_get_euid(credentials, &user))
        return user == 0
    }

    /// `CheckAuthorization((sa{sv}) subject, s action, a{ss} details, u flags, s cancellation) → (bba{ss})`.
    private func ask(_ query: Query, _ details: [String: String]) throws {
        var raw: OpaquePointer?
        try busCall(
            "sd_bus_message_new_method_call",
            sd_bus_message_new_method_call(
                bus, &raw, "org.freedesktop.PolicyKit1", "/org/freedesktop/PolicyKit1/Authority",
                "org.freedesktop.PolicyKit1.Authority", "CheckAuthorization"))
        defer { sd_bus_message_unref(raw) }
        guard let raw else { return }
        let out = Outgoing(raw)
        try out.structure("sa{sv}") { () throws(BusCallError) in
            try out.string("system-bus-name")
            try out.array(of: "{sv}", ["name"]) { (key) throws(BusCallError) in
                try out.container("e", "sv") { () throws(BusCallError) in
                    try out.string(key)
                    try out.container("v", "s") { () throws(BusCallError) in try out.string(query.message.sender) }
                }
            }
        }
        try out.string(query.action.rawValue)
        try out.array(of: "{ss}", details.sorted { $0.key < $1.key }) { (detail) throws(BusCallError) in
            try out.container("e", "ss") { () throws(BusCallError) in
                try out.string(detail.key)
                try out.string(detail.value)
            }
        }
        // Bit 0: a person may be asked for a password, which takes as long as it takes.
        try out.unsigned32(query.message.allowsInteraction ? 1 : 0)
        try out.string("")
        try send(raw, query)
    }

    private func send(_ raw: OpaquePointer, _ query: Query) throws {
        let held = Unmanaged.passRetained(query)
        let result = sd_bus_call_async(
            bus, nil, raw,
            { reply, userdata, _ in
                guard let reply, let userdata else { return 0 }
                let query = Unmanaged<Query>.fromOpaque(userdata).takeRetainedValue()
                query.service.decide(query, Incoming(reply))
                return 0
            }, held.toOpaque(), query.message.allowsInteraction ? UInt64.max : 0)
        if result < 0 { held.release() }
        try busCall("sd_bus_call_async", on: "CheckAuthorization", result)
    }

    private func decide(_ query: Query, _ reply: Incoming) {
        answer(query.message) {
            if let error = sd_bus_message_get_error(reply.raw) {
                let name = error.pointee.name.map { String(cString: $0) } ?? "?"
                let why = "is for root only, because polkit cannot be asked (\(name))"
                throw BusFault(.notAuthorized, "\(query.action.rawValue) \(why)")
            }
            try reply.enter("r", "bba{ss}")
            guard try reply.boolean() else {
                throw BusFault(.notAuthorized, "polkit does not grant \(query.action.rawValue) to the caller")
            }
            return try query.body()
        }
    }
}
