import CKernel
import Glibc
import Synchronization

/// A detached POSIX thread, pthread_create(3), for work that blocks in system calls.
///
/// The daemon's blocking work (a migration, a peer's channel, a probe) does not belong on Swift's cooperative
/// pool, whose few threads must not wait in the kernel.
public enum BlockingThread {
    private final class Body {
        let name: String
        let run: @Sendable () -> Void
        init(name: String, run: @escaping @Sendable () -> Void) {
            self.name = name
            self.run = run
        }
    }

    /// Starts `body` on a new thread called `name` (the kernel keeps 15 bytes of it).
    public static func start(_ name: String, _ body: @escaping @Sendable () -> Void) throws(KernelError) {
        var attributes = pthread_attr_t()
        pthread_attr_init(&attributes)
        pthread_attr_setdetachstate(&attributes, Int32(PTHREAD_CREATE_DETACHED))
        defer { pthread_attr_destroy(&attributes) }
        let box = Unmanaged.passRetained(Body(name: name, run: body))
        var thread = pthread_t()
        let code = pthread_create(
            &thread, &attributes,
            { argument in
                guard let argument else { return nil }
                let body = Unmanaged<Body>.fromOpaque(argument).takeRetainedValue()
                body.name.withCString {
                    _ = ck_syscall(Int(SYS_prctl), Int(PR_SET_NAME), Int(bitPattern: $0), 0, 0, 0, 0)
                }
                body.run()
                return nil
            }, box.toOpaque())
        guard code == 0 else {
            box.release()
            throw KernelError(call: "pthread_create", object: name, code: Errno(rawValue: code))
        }
    }
}

/// A value that one thread sets once and others wait for.
public final class Promise<Value: Sendable>: Sendable {
    private let state = Mutex<Value?>(nil)
    private let ready: EventCounter

    public init() throws(KernelError) { ready = try EventCounter() }

    /// Sets the value; a second call changes nothing.
    public func fulfil(_ value: Value) {
        let first = state.withLock { state in
            guard state == nil else { return false }
            state = value
            return true
        }
        if first { ready.signal() }
    }

    /// The value, or nil when `timeout` milliseconds have passed without one; negative waits without end.
    public func wait(milliseconds timeout: Int32 = -1) -> Value? {
        if let value = state.withLock({ $0 }) { return value }
        ready.wait(milliseconds: timeout)
        return state.withLock { $0 }
    }
}

/// eventfd(2) used as a latch: once signalled it stays readable, until it is cleared.
public final class EventCounter: Sendable {
    private let descriptor: FileDescriptor
    public var raw: Int32 { descriptor.raw }

    public init() throws(KernelError) {
        descriptor = FileDescriptor(
            owning: try systemCall("eventfd") { eventfd(0, Int32(EFD_CLOEXEC) | Int32(EFD_NONBLOCK)) })
    }

    public func signal() {
        var one: UInt64 = 1
        _ = Glibc.write(descriptor.raw, &one, 8)
    }

    public func clear() {
        var count: UInt64 = 0
        _ = Glibc.read(descriptor.raw, &count, 8)
    }

    /// True when it was signalled before `timeout` milliseconds passed.
    @discardableResult
    public func wait(milliseconds timeout: Int32) -> Bool {
        let deadline = Clock.monotonic + Int64(timeout) * 1_000_000
        while true {
            var poll = pollfd(fd: descriptor.raw, events: Int16(POLLIN), revents: 0)
            let left = timeout < 0 ? -1 : Int32(clamping: max(0, (deadline - Clock.monotonic + 999_999) / 1_000_000))
            let count = Glibc.poll(&poll, 1, left)
            if count > 0 { return true }
            if count == 0 { return false }
        }
    }
}
