import BusContract
import CKernel
import CSystemd
import Glibc
import Kernel

/// The interfaces' own description, as sd-bus gives it to `Introspect`, without a bus and without a backend.
public enum Introspection {
    /// The `<interface>` element of `interface`, indented by two spaces less than within its `<node>`.
    public static func xml(of interface: String) throws -> String {
        let path =
            switch interface {
            case BusName.managerInterface: BusName.root
            case BusName.serviceInterface: BusName.services + "/any"
            case BusName.migrationInterface: BusName.migrations + "/1"
            case BusName.nodeInterface: BusName.nodes + "/any"
            default:
                throw BusFault(
                    .invalidArgument,
                    "no interface is called \(interface); there are "
                        + BusName.interfaces.joined(separator: ", "))
            }
        let document = try introspect(path)
        var lines: [Substring] = []
        for line in document.split(separator: "\n", omittingEmptySubsequences: false) {
            if line.contains("<interface name=\"\(interface)\">") || !lines.isEmpty { lines.append(line.dropFirst()) }
            if !lines.isEmpty && line.contains("</interface>") { break }
        }
        return lines.joined(separator: "\n") + "\n"
    }

    /// Two ends of a socketpair(2) in this thread: one is asked for the introspection data of `path`, the other has
    /// the vtables.
    private static func introspect(_ path: String) throws -> String {
        var ends: [Int32] = [-1, -1]
        let type = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
        try systemCall("socketpair") { socketpair(AF_UNIX, type, 0, &ends) }
        let server = try connection(ends[0], isServer: true)
        defer { _ = sd_bus_flush_close_unref(server) }
        let client = try connection(ends[1], isServer: false)
        defer { _ = sd_bus_flush_close_unref(client) }
        var anchor: UInt8 = 0
        return try withUnsafeMutablePointer(to: &anchor) { anchor in
            // Every object is there: the tables are described, not the present state. Never dereferenced.
            let find: sd_bus_object_find_t = { _, _, _, userdata, found, _ in
                found?.pointee = userdata
                return 1
            }
            try ObjectTree.register(on: server, find: find, userdata: anchor)
            return try ask(client, server, path)
        }
    }

    private static func connection(_ descriptor: Int32, isServer: Bool) throws -> OpaquePointer {
        var raw: OpaquePointer?
        try busCall("sd_bus_new", sd_bus_new(&raw))
        guard let raw else { throw BusCallError(call: "sd_bus_new", object: "", code: .noMemory) }
        try busCall("sd_bus_set_fd", sd_bus_set_fd(raw, descriptor, descriptor))
        if isServer {
            var id = sd_id128_t()
            try busCall("sd_id128_randomize", sd_id128_randomize(&id))
            try busCall("sd_bus_set_server", sd_bus_set_server(raw, 1, id))
        }
        try busCall("sd_bus_start", sd_bus_start(raw))
        return raw
    }

    /// Holds the answer until both ends have been driven far enough.
    private final class Reply {
        var xml: String?
        var failure: String?
    }

    private static func ask(_ client: OpaquePointer, _ server: OpaquePointer, _ path: String) throws -> String {
        var raw: OpaquePointer?
        try busCall(
            "sd_bus_message_new_method_call",
            sd_bus_message_new_method_call(
                client, &raw, nil, path, "org.freedesktop.DBus.Introspectable", "Introspect"))
        defer { sd_bus_message_unref(raw) }
        let reply = Reply()
        let result = sd_bus_call_async(
            client, nil, raw,
            { message, userdata, _ in
                guard let message, let userdata else { return 0 }
                let reply = Unmanaged<Reply>.fromOpaque(userdata).takeUnretainedValue()
                if let error = sd_bus_message_get_error(message) {
                    reply.failure = error.pointee.message.map { String(cString: $0) } ?? "unnamed error"
                } else {
                    reply.xml = try? Incoming(message).string()
                }
                return 0
            }, Unmanaged.passUnretained(reply).toOpaque(), 0)
        try busCall("sd_bus_call_async", on: "Introspect", result)
        while reply.xml == nil && reply.failure == nil {
            // Both ends are in this thread and never block; when neither has work, something is lost.
            let moved =
                try busCall("sd_bus_process", sd_bus_process(client, nil))
                + busCall("sd_bus_process", sd_bus_process(server, nil))
            if moved == 0 { throw BusFault(.internalError, "introspection of \(path) got no answer") }
        }
        guard let xml = reply.xml else {
            throw BusFault(.internalError, "introspection of \(path): \(reply.failure ?? "not a string")")
        }
        return xml
    }
}
