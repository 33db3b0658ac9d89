import CSystemd
import Glibc
import Synchronization

@testable import BusService

/// An authority on the private bus that answers as the test says and remembers what it was asked. The real one cannot
/// be used: it belongs to the machine's own bus.
final class PolkitAuthority {
    struct Question: Equatable, Sendable {
        var sender: String
        var action: String
        var details: [String: String]
    }

    final class Record: Sendable {
        let questions = Mutex<[Question]>([])
        let grants: Bool
        init(grants: Bool) { self.grants = grants }
    }

    let record: Record
    private let thread: BusThread

    init(grants: Bool) throws {
        let record = Record(grants: grants)
        self.record = record
        thread = try BusThread { stopBox, ready in
            do {
                let loop = try EventLoop()
                var bus: OpaquePointer?
                try busCall("sd_bus_open_system", sd_bus_open_system(&bus))
                defer { sd_bus_flush_close_unref(bus) }
                try busCall("sd_bus_attach_event", sd_bus_attach_event(bus, loop.raw, 0))
                let userdata = Unmanaged.passUnretained(record).toOpaque()
                try busCall("sd_bus_add_filter", sd_bus_add_filter(bus, nil, Self.filter, userdata))
                try busCall("sd_bus_request_name", sd_bus_request_name(bus, "org.freedesktop.PolicyKit1", 0))
                try loop.onMail(stopBox) { loop.exit($0) }
                ready.post("")
                _ = try loop.run()
            } catch {
                ready.post("\(error)")
            }
        }
    }

    deinit { thread.stop() }

    private static let filter: sd_bus_message_handler_t = { message, userdata, _ in
        guard let message, let userdata,
            sd_bus_message_is_method_call(message, "org.freedesktop.PolicyKit1.Authority", "CheckAuthorization") > 0
        else { return 0 }
        let record = Unmanaged<Record>.fromOpaque(userdata).takeUnretainedValue()
        do {
            let question = try PolkitAuthority.read(Incoming(message))
            record.questions.withLock { $0.append(question) }
            try PolkitAuthority.answer(message, record.grants)
            return 1
        } catch {
            return -EINVAL
        }
    }

    private static func read(_ message: Incoming) throws -> Question {
        var question = Question(sender: "", action: "", details: [:])
        try message.enter("r", "sa{sv}")
        guard try message.string() == "system-bus-name" else { return question }
        try message.enter("a", "{sv}")
        while try message.tryEnter("e", "sv") {
            _ = try message.string()
            question.sender = try message.variant("s").text
            try message.leave()
        }
        try message.leave()
        try message.leave()
        question.action = try message.string()
        try message.enter("a", "{ss}")
        while try message.tryEnter("e", "ss") {
            let key = try message.string()
            question.details[key] = try message.string()
            try message.leave()
        }
        try message.leave()
        return question
    }

    private static func answer(_ call: OpaquePointer, _ grants: Bool) throws {
        var reply: OpaquePointer?
        try busCall("sd_bus_message_new_method_return", sd_bus_message_new_method_return(call, &reply))
        defer { sd_bus_message_unref(reply) }
        guard let reply else { return }
        let out = Outgoing(reply)
        try out.structure("bba{ss}") { () throws(BusCallError) in
            try out.boolean(grants)
            try out.boolean(false)
            try out.container("a", "{ss}") { () throws(BusCallError) in }
        }
        try busCall("sd_bus_send", sd_bus_send(nil, reply, nil))
    }
}
