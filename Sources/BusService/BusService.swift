import BusContract
import CSystemd
import Glibc
import Kernel
import Logging

/// mobilityd on the bus: objects, methods, properties and signals over a `ManagerBackend`, by sd-bus(3).
///
/// Belongs to one thread, that of its event loop. The backend reports from its own threads through a mailbox.
public final class BusService {
    let bus: OpaquePointer
    let backend: any ManagerBackend
    let version: String
    let log: Logger

    /// What other threads leave for the bus thread.
    enum Mail: Sendable {
        case event(BackendEvent)
        case answer(UInt64, Result<any Sendable, BusFault>)
    }

    private let mailbox: Mailbox<Mail>
    /// Calls whose completion is outstanding, by a number.
    private var pending: [UInt64: (Result<any Sendable, BusFault>) -> Void] = [:]
    private var lastToken: UInt64 = 0
    /// Calls to be answered when a migration is over.
    private var waiters: [MigrationID: [Waiter]] = [:]
    /// Called on the bus thread when the connection to the bus is lost. There is no way back to the same objects.
    public var onDisconnect: (() -> Void)?
    /// While a change is announced, its properties are read from here: the backend may be further already.
    var snapshot: MigrationInfo?

    private struct Waiter {
        let message: Incoming
        let body: (MigrationInfo) throws -> Answer
    }

    /// How a method is answered.
    enum Answer {
        /// At once, with arguments.
        case reply((Outgoing) throws -> Void)
        /// At once, without arguments.
        case empty
        /// By whoever kept the message.
        case later
    }

    /// Connects to the system bus (or the one that `DBUS_SYSTEM_BUS_ADDRESS` names) and offers `backend` on it.
    /// The name is not requested yet.
    public init(
        backend: any ManagerBackend, version: String, loop: EventLoop, log: Logger
    ) throws {
        var connection: OpaquePointer?
        try busCall("sd_bus_open_system", sd_bus_open_system_with_description(&connection, "mobilityd"))
        guard let connection else { throw BusCallError(call: "sd_bus_open_system", object: "", code: .noMemory) }
        bus = connection
        self.backend = backend
        self.version = version
        self.log = log
        mailbox = try Mailbox()
        let own = Unmanaged.passUnretained(self).toOpaque()
        try ObjectTree.register(on: bus, find: busFind, userdata: own)
        try ObjectTree.registerEnumerators(on: bus, userdata: own)
        try busCall(
            "sd_bus_match_signal", on: "Disconnected",
            sd_bus_match_signal(
                bus, nil, nil, "/org/freedesktop/DBus/Local", "org.freedesktop.DBus.Local", "Disconnected",
                busDisconnected, own))
        try loop.onMail(mailbox) { [weak self] mail in self?.deliver(mail) }
        try busCall("sd_bus_attach_event", sd_bus_attach_event(bus, loop.raw, 0))
        let mailbox = mailbox
        backend.setObserver { mailbox.post(.event($0)) }
    }

    deinit {
        sd_bus_flush(bus)
        sd_bus_detach_event(bus)
        sd_bus_close(bus)
        sd_bus_unref(bus)
    }

    /// Takes the name `org.mobilityd1`; fails if another daemon has it.
    public func requestName() throws {
        try busCall("sd_bus_request_name", on: BusName.service, sd_bus_request_name(bus, BusName.service, 0))
    }

    /// Gives the name back and sends what is queued.
    public func releaseName() {
        sd_bus_release_name(bus, BusName.service)
        sd_bus_flush(bus)
    }

    /// Runs `body` on the bus thread when the backend has called the completion returned.
    public func completion<Value: Sendable>(
        _ body: @escaping (Result<Value, BusFault>) -> Void
    ) -> Completion<Value> {
        lastToken += 1
        let token = lastToken
        pending[token] = { result in
            switch result {
            case .failure(let fault): body(.failure(fault))
            case .success(let value):
                // The type was fixed by the closure below.
                if let value = value as? Value { body(.success(value)) }
            }
        }
        let mailbox = mailbox
        return { result in mailbox.post(.answer(token, result.map { $0 })) }
    }

    /// A completion that answers `message`.
    func reply<Value: Sendable>(
        to message: Incoming, _ write: @escaping (Outgoing, Value) throws -> Void
    ) -> Completion<Value> {
        completion { [weak self] (result: Result<Value, BusFault>) in
            self?.answer(message) {
                let value = try result.get()
                return .reply { try write($0, value) }
            }
        }
    }

    /// Runs `body` and sends what it answers or throws as the reply to `message`.
    func answer(_ message: Incoming, with body: () throws -> Answer) {
        do {
            switch try body() {
            case .later: return
            case .empty: try send(replyTo: message) { _ in }
            case .reply(let write): try send(replyTo: message, write)
            }
        } catch let fault as BusFault {
            sendError(fault, to: message)
        } catch {
            sendError(BusFault(.internalError, "\(message.member): \(error)"), to: message)
        }
    }

    private func send(replyTo message: Incoming, _ write: (Outgoing) throws -> Void) throws {
        var raw: OpaquePointer?
        try busCall("sd_bus_message_new_method_return", sd_bus_message_new_method_return(message.raw, &raw))
        defer { sd_bus_message_unref(raw) }
        guard let raw else { return }
        try write(Outgoing(raw))
        try busCall("sd_bus_send", on: message.member, sd_bus_send(bus, raw, nil))
    }

    private func sendError(_ fault: BusFault, to message: Incoming) {
        log.debug("\(message.member) refused: \(fault)", metadata: ["error": "\(fault.code.busName)"])
        var error = sd_bus_error()
        sd_bus_error_set(&error, fault.code.busName, fault.message)
        defer { sd_bus_error_free(&error) }
        if sd_bus_reply_method_error(message.raw, &error) < 0 {
            log.warning("could not answer \(message.member) of \(message.sender)")
        }
    }

    /// Answers `message` with `write` when the migration is done, or with an error when it ends otherwise.
    func wait(for id: MigrationID, message: Incoming, _ write: @escaping (Outgoing) throws -> Void) throws -> Answer {
        guard let info = backend.migration(id) else { throw BusService.noSuchMigration(id) }
        // If it ends right now, the event is still to come, because the backend changes its state before it posts.
        if info.phase.isFinal { return try Self.outcome(of: info, write) }
        whenOver(id, message) { try Self.outcome(of: $0, write) }
        return .later
    }

    /// Answers `message` with what `body` makes of the migration's end.
    func whenOver(_ id: MigrationID, _ message: Incoming, _ body: @escaping (MigrationInfo) throws -> Answer) {
        waiters[id, default: []].append(Waiter(message: message, body: body))
    }

    static func outcome(of info: MigrationInfo, _ write: @escaping (Outgoing) throws -> Void) throws -> Answer {
        if info.phase == .done { return .reply(write) }
        if let fault = info.fault { throw fault }
        throw BusFault(
            info.phase == .failed ? .migrationFailed : .rolledBack,
            "migration \(info.id) of \(info.unit) to \(info.destination) ended as \(info.result)")
    }

    private func deliver(_ mail: Mail) {
        switch mail {
        case .answer(let token, let result): pending.removeValue(forKey: token)?(result)
        case .event(let event):
            do {
                try announce(event)
            } catch {
                log.error("could not announce on the bus: \(error)")
            }
            if case .migrationFinished(let info) = event { finishWaiters(info) }
        }
    }

    private func finishWaiters(_ info: MigrationInfo) {
        for waiter in waiters.removeValue(forKey: info.id) ?? [] {
            answer(waiter.message) { try waiter.body(info) }
        }
    }

    static func noSuchMigration(_ id: MigrationID) -> BusFault {
        BusFault(.noSuchMigration, "no migration \(id) is known")
    }
}
