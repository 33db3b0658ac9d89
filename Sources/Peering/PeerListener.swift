import CKernel
import Glibc
import Kernel
import Synchronization

/// Accepts connections of enrolled nodes; everyone else learns nothing but that TLS is spoken here.
///
/// One thread accepts. Each connection has a thread of its own, which proves the peer within five seconds and then
/// runs the handler; the handler may keep the channel and return, or work in it. Unproved connections are bounded in
/// all and by address, so that one host cannot take every place.
public final class PeerListener: Sendable {
    /// How long a stranger may take to prove itself, ms.
    static let handshakeMilliseconds: Int64 = 5000
    /// Unproved connections at a time, in all and of one address.
    static let handshakeLimit = 16
    static let handshakeLimitByAddress = 4

    public typealias Handler = @Sendable (Channel) -> Void
    public typealias Log = @Sendable (String) -> Void

    private let socket: FileDescriptor
    /// Where it listens; the port is the real one when 0 was asked for.
    public let address: SocketAddress
    private let identity: Mutex<Identity>
    private let features: [String]
    private let limits: FrameLimits
    private let handler: Handler
    private let log: Log
    private let state = Mutex(State())
    private let isStopped = Atomic<Bool>(false)
    private let handshakeMilliseconds: Int64

    struct State {
        var handshakes: [String: Int] = [:]
        var lastLog: Int64 = .min
        var suppressed = 0
    }

    /// Listens at the numeric `address`, or on every address when nil, and starts accepting.
    /// `log` gets one line for a refused peer, at most one in five seconds.
    public convenience init(
        address: String?, port: UInt16 = NodeSettings.defaultPort, identity: Identity, features: [String] = [],
        limits: FrameLimits = FrameLimits(), log: @escaping Log, handler: @escaping Handler
    ) throws(PeeringError) {
        try self.init(
            address: address, port: port, identity: identity, features: features, limits: limits,
            handshakeMilliseconds: Self.handshakeMilliseconds, log: log, handler: handler)
    }

    init(
        address: String?, port: UInt16, identity: Identity, features: [String], limits: FrameLimits,
        handshakeMilliseconds: Int64, log: @escaping Log, handler: @escaping Handler
    ) throws(PeeringError) {
        do throws(KernelError) {
            socket = try Self.bound(address, port)
            try InternetSocket.listen(socket, backlog: 64)
            guard let bound = try InternetSocket.localAddress(socket) else {
                throw KernelError(call: "getsockname", object: address ?? "any", code: .invalidArgument)
            }
            self.address = bound
        } catch { throw .kernel(error) }
        self.identity = Mutex(identity)
        self.features = features
        self.limits = limits
        self.handshakeMilliseconds = handshakeMilliseconds
        self.handler = handler
        self.log = log
        try DetachedThread.start { self.acceptLoop() }
    }

    /// From now on `newIdentity` decides who may connect; open channels stay.
    public func update(identity newIdentity: Identity) { identity.withLock { $0 = newIdentity } }

    /// Accepts no more; open channels stay. Until then the accepting thread keeps the listener alive.
    public func stop() {
        if isStopped.exchange(true, ordering: .acquiringAndReleasing) { return }
        do throws(KernelError) { try InternetSocket.shutdown(socket) } catch {}
    }

    private static func bound(_ address: String?, _ port: UInt16) throws(KernelError) -> FileDescriptor {
        guard let address else {
            // [::] takes IPv4 as well; without IPv6 in the kernel or on the host there is 0.0.0.0.
            do throws(KernelError) {
                return try bound("::", port)
            } catch  where [EAFNOSUPPORT, EADDRNOTAVAIL].contains(error.code.rawValue) {
                return try bound("0.0.0.0", port)
            }
        }
        guard let target = SocketAddress(address, port: port) else {
            throw KernelError(call: "bind", object: address, code: .invalidArgument)
        }
        let socket = try InternetSocket.make(family: target.family, type: InternetSocket.stream)
        try InternetSocket.set(socket, SOL_SOCKET, SO_REUSEADDR, 1)
        if !target.isIPv4 { try InternetSocket.set(socket, Int32(IPPROTO_IPV6), IPV6_V6ONLY, 0) }
        try InternetSocket.bind(socket, to: target)
        return socket
    }

    private func acceptLoop() {
        while !isStopped.load(ordering: .acquiring) {
            do throws(KernelError) {
                _ = try Poll.wait(socket.raw, for: POLLIN, until: .never)
                if isStopped.load(ordering: .acquiring) { return }
                admit(try InternetSocket.accept(socket))
            } catch {
                switch error.code.rawValue {
                case EAGAIN, ECONNABORTED, EPROTO, EPERM, ENETDOWN, EHOSTUNREACH, ENETUNREACH: continue
                case EMFILE, ENFILE, ENOBUFS, ENOMEM:
                    report("cannot accept: \(error)")
                    // Nothing tells when a descriptor becomes free.
                    _ = poll(nil, 0, 100)
                default:
                    report("stopped accepting: \(error)")
                    return
                }
            }
        }
    }

    private func admit(_ accepted: consuming FileDescriptor) {
        let raw = accepted.release()
        let owned = FileDescriptor(owning: raw)
        let source: String
        do throws(KernelError) { source = try InternetSocket.remoteAddress(owned)?.host ?? "?" } catch { return }
        let admitted = state.withLock { state in
            guard state.handshakes.values.reduce(0, +) < Self.handshakeLimit,
                state.handshakes[source, default: 0] < Self.handshakeLimitByAddress
            else { return false }
            state.handshakes[source, default: 0] += 1
            return true
        }
        guard admitted else { return report("refused a connection from \(source): too many unproved ones") }
        let handle = owned.release()
        do throws(PeeringError) {
            try DetachedThread.start { self.serve(handle, source) }
        } catch {
            _ = FileDescriptor(owning: handle)
            leave(source)
            report("cannot serve \(source): \(error)")
        }
    }

    private func leave(_ source: String) {
        state.withLock { state in
            let count = state.handshakes[source, default: 1] - 1
            state.handshakes[source] = count > 0 ? count : nil
        }
    }

    private func serve(_ raw: Int32, _ source: String) {
        let socket = FileDescriptor(owning: raw)
        let current = identity.withLock { $0 }
        let channel: Channel
        do throws(PeeringError) {
            defer { leave(source) }
            do throws(KernelError) { try OpenedConnection.tune(socket) } catch { throw .kernel(error) }
            channel = Channel(
                try OpenedConnection(
                    socket: socket, role: .server, identity: current, peers: Array(current.peers.values),
                    peerName: source, hello: Hello.current(nodeName: current.name, features: features),
                    limits: limits, deadline: .after(milliseconds: handshakeMilliseconds)))
        } catch {
            return report("refused a connection from \(source): \(error)")
        }
        handler(channel)
    }

    /// At most a line in five seconds: the network must not fill the journal.
    private func report(_ text: String) {
        let line: String? = state.withLock { state in
            let now = Clock.monotonic
            if state.lastLog != .min, now - state.lastLog < 5_000_000_000 {
                state.suppressed += 1
                return nil
            }
            let suppressed = state.suppressed
            state.lastLog = now
            state.suppressed = 0
            return suppressed == 0 ? text : "\(text) (\(suppressed) similar lines suppressed)"
        }
        if let line { log(line) }
    }
}

/// A detached thread that runs one closure, pthread_create(3).
enum DetachedThread {
    private final class Body {
        let run: @Sendable () -> Void
        init(_ run: @escaping @Sendable () -> Void) { self.run = run }
    }

    static func start(_ run: @escaping @Sendable () -> Void) throws(PeeringError) {
        let body = Unmanaged.passRetained(Body(run))
        var attributes = pthread_attr_t()
        pthread_attr_init(&attributes)
        defer { pthread_attr_destroy(&attributes) }
        pthread_attr_setdetachstate(&attributes, Int32(PTHREAD_CREATE_DETACHED))
        var thread = pthread_t()
        let code = pthread_create(
            &thread, &attributes,
            { argument in
                guard let argument else { return nil }
                Unmanaged<Body>.fromOpaque(argument).takeRetainedValue().run()
                return nil
            }, body.toOpaque())
        guard code == 0 else {
            body.release()
            throw .kernel(KernelError(call: "pthread_create", object: "", code: Errno(rawValue: code)))
        }
    }
}
