import CKernel
import CSystemd
import Glibc
import Kernel
import Synchronization

/// The event loop of the bus thread, sd-event(3). Used by the thread that made it.
public final class EventLoop {
    let raw: OpaquePointer
    /// What the C callbacks point to; lives as long as the loop.
    private var handlers: [AnyObject] = []

    private final class SignalHandler {
        let body: () -> Void
        init(_ body: @escaping () -> Void) { self.body = body }
    }

    public init() throws(BusCallError) {
        var event: OpaquePointer?
        try busCall("sd_event_new", sd_event_new(&event))
        guard let event else { throw BusCallError(call: "sd_event_new", object: "", code: .noMemory) }
        raw = event
    }

    deinit { sd_event_unref(raw) }

    /// Blocks `signals` for this thread and all that it starts later. Call before the first thread is started.
    public static func blockSignals(_ signals: [Int32]) {
        var set = sigset_t()
        sigemptyset(&set)
        for signal in signals { sigaddset(&set, signal) }
        pthread_sigmask(SIG_BLOCK, &set, nil)
    }

    /// Calls `body` on the loop's thread when the blocked `signal` arrives. sd_event_add_signal(3).
    public func onSignal(_ signal: Int32, _ body: @escaping () -> Void) throws(BusCallError) {
        let handler = SignalHandler(body)
        handlers.append(handler)
        let result = sd_event_add_signal(
            raw, nil, signal,
            { _, _, userdata in
                guard let userdata else { return 0 }
                Unmanaged<SignalHandler>.fromOpaque(userdata).takeUnretainedValue().body()
                return 0
            }, Unmanaged.passUnretained(handler).toOpaque())
        try busCall("sd_event_add_signal", on: "signal \(signal)", result)
    }

    /// Calls `body` on the loop's thread whenever `mailbox` holds something.
    func onMail<Item>(_ mailbox: Mailbox<Item>, _ body: @escaping (Item) -> Void) throws(BusCallError) {
        let handler = SignalHandler { for item in mailbox.take() { body(item) } }
        handlers.append(handler)
        let result = sd_event_add_io(
            raw, nil, mailbox.descriptor, UInt32(EPOLLIN.rawValue),
            { _, _, _, userdata in
                guard let userdata else { return 0 }
                Unmanaged<SignalHandler>.fromOpaque(userdata).takeUnretainedValue().body()
                return 0
            }, Unmanaged.passUnretained(handler).toOpaque())
        try busCall("sd_event_add_io", on: "eventfd", result)
    }

    /// Keeps the service manager's watchdog content while the loop turns, sd_event_set_watchdog(3).
    /// True if the manager asked for it.
    @discardableResult
    public func enableWatchdog() throws(BusCallError) -> Bool {
        try busCall("sd_event_set_watchdog", sd_event_set_watchdog(raw, 1)) > 0
    }

    /// Turns until `exit` is called; gives its code.
    public func run() throws(BusCallError) -> Int32 {
        try busCall("sd_event_loop", sd_event_loop(raw))
    }

    /// Ends `run()`.
    public func exit(_ code: Int32 = 0) { sd_event_exit(raw, code) }
}

/// Where other threads leave things for the bus thread: a queue whose eventfd(2) is readable while it is not empty.
public final class Mailbox<Item: Sendable>: Sendable {
    private let queue = Mutex<[Item]>([])
    private let event: FileDescriptor

    public init() throws(KernelError) {
        let flags = Int32(EFD_CLOEXEC | EFD_NONBLOCK)
        event = FileDescriptor(owning: try systemCall("eventfd") { eventfd(0, flags) })
    }

    /// The descriptor to poll for reading.
    public var descriptor: Int32 { event.raw }

    /// Any thread may call this.
    public func post(_ item: Item) {
        queue.withLock { $0.append(item) }
        // Fails only if the counter stands at its maximum, and then the descriptor is readable already.
        eventfd_write(event.raw, 1)
    }

    /// Empties the queue.
    public func take() -> [Item] {
        var count: eventfd_t = 0
        eventfd_read(event.raw, &count)
        return queue.withLock { items in
            defer { items = [] }
            return items
        }
    }
}
