import Glibc
import Kernel
import Synchronization

/// An authenticated connection to another node.
///
/// `send` and `receive` may be used from two threads at once, and either from several. Three locks: senders queue on
/// one, receivers on another, and the TLS object has its own, which is held only for work in memory and never while
/// the socket is waited for. So a thread that waits for input does not keep another from sending.
///
/// After any error but a `receive` that merely timed out, the channel is closed. `close` wakes all waiting threads.
public final class Channel: Sendable {
    /// The node at the other end, proved by its certificate.
    public let remoteName: String
    /// What the other end said of itself when the channel was opened.
    public let remoteHello: Hello
    /// The protocol version both ends speak.
    public let version: UInt16

    private let socket: FileDescriptor
    private let limits: FrameLimits
    private let tls: Mutex<TLSSession>
    private let sending: Mutex<SendState>
    private let receiving: Mutex<ReceiveState>
    private let isClosed = Atomic<Bool>(false)

    /// Plaintext taken under one lock of the TLS object, and about the size of one send(2).
    static let chunk = 256 << 10
    /// Room for the records of a chunk: each of at most 16 KiB grows by 22 bytes; and some for a key update.
    static let sealedChunk = chunk + 4096

    struct SendState: Sendable {
        var sealed = [UInt8](repeating: 0, count: Channel.sealedChunk)
    }

    struct ReceiveState: Sendable {
        var sealed = [UInt8](repeating: 0, count: Channel.chunk)
        var plain = [UInt8](repeating: 0, count: 64 << 10)
        var decoder: FrameDecoder
        /// Complete messages, from `next` on.
        var messages: [Message] = []
        var next = 0

        mutating func takeMessage() -> Message? {
            guard next < messages.count else { return nil }
            let message = messages[next]
            next += 1
            if next == messages.count {
                messages.removeAll(keepingCapacity: true)
                next = 0
            }
            return message
        }
    }

    init(_ opened: consuming OpenedConnection) {
        remoteName = opened.remoteName
        remoteHello = opened.hello
        version = opened.version
        limits = opened.limits
        tls = Mutex(opened.session)
        sending = Mutex(SendState())
        receiving = Mutex(opened.received)
        socket = opened.socket
    }

    /// Connects to `peer`, proves each end to the other and exchanges Hello, all before `deadline`.
    public static func connect(
        to peer: Peer, identity: Identity, features: [String] = [], limits: FrameLimits = FrameLimits(),
        deadline: Deadline
    ) throws(PeeringError) -> Channel {
        guard let address = SocketAddress(peer.address, port: peer.port) else {
            throw .enrolment(file: "node \(peer.name)", why: "`\(peer.address)` is not a numeric address")
        }
        let hello = Hello.current(nodeName: identity.name, features: features)
        return Channel(
            try OpenedConnection(
                socket: try dial(address, deadline), role: .client, identity: identity, peers: [peer],
                peerName: peer.name, hello: hello, limits: limits, deadline: deadline))
    }

    private static func dial(_ address: SocketAddress, _ deadline: Deadline) throws(PeeringError) -> FileDescriptor {
        do throws(KernelError) {
            let socket = try InternetSocket.make(family: address.family, type: InternetSocket.stream)
            try OpenedConnection.tune(socket)
            try InternetSocket.connect(socket, to: address, until: deadline)
            return socket
        } catch { throw .kernel(error) }
    }

    /// Sends one message; returns when the kernel has taken all of it.
    ///
    /// The default deadline bounds a peer that is alive but does not read; a cut wire is noticed earlier, by
    /// TCP_USER_TIMEOUT.
    public func send(
        type: UInt16, flags: UInt16 = 0, payload: [UInt8] = [], deadline: Deadline = .after(milliseconds: 30_000)
    ) throws(PeeringError) {
        try send(type: type, flags: flags, bytes: payload.span.bytes, deadline: deadline)
    }

    /// The same for bytes that lie elsewhere, without a copy.
    public func send(
        type: UInt16, flags: UInt16 = 0, bytes: RawSpan, deadline: Deadline = .after(milliseconds: 30_000)
    ) throws(PeeringError) {
        let limit = limits.limit(type)
        guard bytes.byteCount <= limit else {
            throw .payloadTooLong(type: type, length: bytes.byteCount, limit: limit)
        }
        let header = FrameHeader(type: type, flags: flags, length: UInt32(bytes.byteCount)).encoded()
        do throws(PeeringError) {
            try bytes.withUnsafeBytes { (payload) throws(PeeringError) in
                try sending.withLock { (state) throws(PeeringError) in
                    try sendFrame(header, payload, &state, deadline)
                }
            }
        } catch {
            throw closing(error)
        }
    }

    private func sendFrame(
        _ header: [UInt8], _ payload: UnsafeRawBufferPointer, _ state: inout SendState, _ deadline: Deadline
    ) throws(PeeringError) {
        if isClosed.load(ordering: .acquiring) { throw .closed }
        // Header and the first bytes share a record: a small message is one record and one segment.
        let first = min(payload.count, 16_384 - header.count)
        var head = header
        head.append(contentsOf: payload[..<first])
        try head.withBytes { (raw) throws(PeeringError) in try seal(raw) }
        var at = first
        while at < payload.count {
            let end = min(at + Self.chunk - 16_384, payload.count)
            try seal(UnsafeRawBufferPointer(rebasing: payload[at..<end]))
            at = end
            try flush(&state, deadline)
        }
        try flush(&state, deadline)
    }

    private func seal(_ bytes: UnsafeRawBufferPointer) throws(PeeringError) {
        try tls.withLock { (session) throws(PeeringError) in try session.write(bytes) }
    }

    /// Hands everything that TLS has ready to the kernel.
    private func flush(_ state: inout SendState, _ deadline: Deadline) throws(PeeringError) {
        try state.sealed.withMutableBytes { (buffer) throws(PeeringError) in
            while true {
                let count = tls.withLock { $0.takeOutput(into: buffer) }
                if count == 0 { return }
                try Wire.sendAll(socket, UnsafeRawBufferPointer(rebasing: buffer[..<count]), deadline)
            }
        }
    }

    /// Waits for the next message. After `timedOut` the channel is still good and nothing is lost.
    public func receive(deadline: Deadline) throws(PeeringError) -> Message {
        do throws(PeeringError) {
            return try receiving.withLock { (state) throws(PeeringError) in try nextMessage(&state, deadline) }
        } catch {
            if case .timedOut = error { throw error }
            throw closing(error)
        }
    }

    private func nextMessage(_ state: inout ReceiveState, _ deadline: Deadline) throws(PeeringError) -> Message {
        var hasRead = false
        while true {
            if let message = state.takeMessage() { return message }
            if isClosed.load(ordering: .acquiring) { throw .closed }
            let count = try state.plain.withMutableBytes { (buffer) throws(PeeringError) in
                try tls.withLock { (session) throws(PeeringError) in try session.read(into: buffer) }
            }
            if count > 0 {
                try state.decode(count)
                continue
            }
            // Checked apart: while bytes trickle in, poll never times out.
            if hasRead, deadline.hasPassed { throw .timedOut(what: "message from node \(remoteName)") }
            hasRead = true
            try state.sealed.withMutableBytes { (buffer) throws(PeeringError) in
                let count = try Wire.receive(socket, buffer, deadline, what: "message from node \(remoteName)")
                let bytes = UnsafeRawBufferPointer(rebasing: buffer[..<count])
                try tls.withLock { (session) throws(PeeringError) in try session.feed(bytes) }
            }
        }
    }

    /// Closes the channel because of `error`. What this end closed itself is reported as such, not as the broken
    /// connection that follows from it.
    private func closing(_ error: PeeringError) -> PeeringError {
        if case .payloadTooLong = error { return error }
        let wasClosed = isClosed.load(ordering: .acquiring)
        close()
        return wasClosed ? .closed : error
    }

    /// Tells the other end, as far as that works without waiting, and wakes whoever waits here. May be repeated.
    public func close() {
        if isClosed.exchange(true, ordering: .acquiringAndReleasing) { return }
        // A sender in mid-frame must not be cut by close_notify; it fails by itself then.
        _ = sending.withLockIfAvailable { state in
            tls.withLock { $0.shutDown() }
            let now = Deadline(monotonicNanoseconds: 0)
            do throws(PeeringError) { try flush(&state, now) } catch {}
        }
        do throws(KernelError) { try InternetSocket.shutdown(socket) } catch {}
    }

    /// Ends it so that nothing which has not reached the other end yet does so later, when the wire is whole again.
    /// May be repeated.
    public func abort() {
        if isClosed.exchange(true, ordering: .acquiringAndReleasing) { return }
        do throws(KernelError) { try InternetSocket.abort(socket) } catch {}
    }
}

extension Channel.ReceiveState {
    /// Takes `count` bytes of `plain`.
    mutating func decode(_ count: Int) throws(PeeringError) {
        let plain = self.plain
        do throws(FrameViolation) {
            try decoder.decode(plain.span.bytes.extracting(0..<count), into: &messages)
        } catch { throw .frame(error) }
    }
}
