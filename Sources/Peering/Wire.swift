import CKernel
import Glibc
import Kernel

/// Waiting socket I/O with a deadline, on non-blocking sockets.
enum Wire {
    static func sendAll(
        _ socket: borrowing FileDescriptor, _ bytes: UnsafeRawBufferPointer, _ deadline: Deadline
    ) throws(PeeringError) {
        var at = 0
        do throws(KernelError) {
            while at < bytes.count {
                do throws(KernelError) {
                    at += try InternetSocket.send(socket, UnsafeRawBufferPointer(rebasing: bytes[at...]))
                } catch  where error.code == .again {
                    // Checked apart: a peer that drains slowly never lets poll time out.
                    let found = deadline.hasPassed ? nil : try Poll.wait(socket.raw, for: POLLOUT, until: deadline)
                    if found == nil {
                        throw KernelError(call: "send", object: "", code: .timedOut)
                    }
                }
            }
        } catch {
            // ETIMEDOUT with an object is the kernel's own: TCP_USER_TIMEOUT.
            if error.code == .timedOut, error.object.isEmpty { throw .timedOut(what: "send") }
            throw .kernel(error)
        }
    }

    /// At least one byte; the end of the stream throws, as TLS ends before TCP does.
    static func receive(
        _ socket: borrowing FileDescriptor, _ buffer: UnsafeMutableRawBufferPointer, _ deadline: Deadline,
        what: @autoclosure () -> String
    ) throws(PeeringError) -> Int {
        do throws(KernelError) {
            while true {
                do throws(KernelError) {
                    let count = try InternetSocket.receive(socket, into: buffer)
                    if count == 0 { break }
                    return count
                } catch  where error.code == .again {
                    if try Poll.wait(socket.raw, for: POLLIN, until: deadline) == nil {
                        throw KernelError(call: "recv", object: "", code: .timedOut)
                    }
                }
            }
        } catch {
            if error.code == .timedOut, error.object.isEmpty { throw .timedOut(what: what()) }
            throw .kernel(error)
        }
        throw .truncated
    }
}

/// A connection whose ends have proved themselves and exchanged Hello: what a `Channel` is made of.
struct OpenedConnection: ~Copyable {
    let socket: FileDescriptor
    let session: TLSSession
    let received: Channel.ReceiveState
    let remoteName: String
    let hello: Hello
    let version: UInt16
    let limits: FrameLimits

    /// Small messages leave at once; a cut wire is noticed in about ten seconds whether data is under way
    /// (TCP_USER_TIMEOUT) or not (keep-alive); tcp(7).
    static func tune(_ socket: borrowing FileDescriptor) throws(KernelError) {
        try InternetSocket.set(socket, Int32(IPPROTO_TCP), TCP_NODELAY, 1)
        try InternetSocket.set(socket, SOL_SOCKET, SO_KEEPALIVE, 1)
        try InternetSocket.set(socket, Int32(IPPROTO_TCP), TCP_KEEPIDLE, 3)
        try InternetSocket.set(socket, Int32(IPPROTO_TCP), TCP_KEEPINTVL, 2)
        try InternetSocket.set(socket, Int32(IPPROTO_TCP), TCP_KEEPCNT, 4)
        try InternetSocket.set(socket, Int32(IPPROTO_TCP), TCP_USER_TIMEOUT, 10_000)
        try InternetSocket.set(socket, SOL_SOCKET, SO_SNDBUF, 4 << 20)
    }

    /// Handshake and Hello on a connected, non-blocking socket.
    ///
    /// The server speaks first: nothing of the client is then unread when the server refuses it, so closing cannot
    /// turn into a reset that destroys the alert which says why.
    init(
        socket: consuming FileDescriptor, role: TLSSession.Role, identity: Identity, peers: [Peer], peerName: String,
        hello: Hello, limits: FrameLimits, deadline: Deadline
    ) throws(PeeringError) {
        let session = try TLSSession(role: role, identity: identity, peers: peers, peerName: peerName)
        try Self.handshake(session, socket, deadline, peerName)
        guard let remoteName = session.authenticatedName else {
            throw .tls(operation: "handshake", reason: "ended without a certificate")
        }
        var state = Channel.ReceiveState(decoder: FrameDecoder(limits: limits))
        let frame = Self.frame(hello)
        if role == .server { try Self.send(frame, session, socket, deadline) }
        let remote = try Self.receiveHello(session, socket, &state, deadline, remoteName)
        // Sent even when the versions do not meet: each end is to know why.
        if role == .client { try Self.send(frame, session, socket, deadline) }
        guard remote.nodeName == remoteName else {
            throw .nameMismatch(certificate: remoteName, hello: remote.nodeName)
        }
        let version = min(hello.versions.upperBound, remote.versions.upperBound)
        guard version >= max(hello.versions.lowerBound, remote.versions.lowerBound) else {
            throw .incompatible(peer: remoteName, ours: hello.versions, theirs: remote.versions)
        }
        self.socket = socket
        self.session = session
        self.received = state
        self.remoteName = remoteName
        self.hello = remote
        self.version = version
        self.limits = limits
    }

    private static func frame(_ hello: Hello) -> [UInt8] {
        let payload = hello.encoded()
        let header = FrameHeader(type: Hello.messageType, flags: 0, length: UInt32(payload.count))
        return header.encoded() + payload
    }

    private static func handshake(
        _ session: TLSSession, _ socket: borrowing FileDescriptor, _ deadline: Deadline, _ peer: String
    ) throws(PeeringError) {
        var buffer = [UInt8](repeating: 0, count: 16 << 10)
        while true {
            let complete: Bool
            do throws(PeeringError) {
                complete = try session.handshake()
            } catch {
                // The alert that tells the other end why; it may be gone already.
                do throws(PeeringError) { try flush(session, socket, deadline) } catch {}
                throw error
            }
            try flush(session, socket, deadline)
            if complete { return }
            try feed(session, socket, &buffer, deadline, "TLS handshake with \(peer)")
        }
    }

    private static func feed(
        _ session: TLSSession, _ socket: borrowing FileDescriptor, _ buffer: inout [UInt8], _ deadline: Deadline,
        _ what: String
    ) throws(PeeringError) {
        // Checked apart: a peer that trickles bytes never lets poll time out.
        if deadline.hasPassed { throw .timedOut(what: what) }
        let count = try buffer.withMutableBytes { (bytes) throws(PeeringError) in
            try Wire.receive(socket, bytes, deadline, what: what)
        }
        try buffer.withBytes { (bytes) throws(PeeringError) in
            try session.feed(UnsafeRawBufferPointer(rebasing: bytes[..<count]))
        }
    }

    private static func flush(
        _ session: TLSSession, _ socket: borrowing FileDescriptor, _ deadline: Deadline
    ) throws(PeeringError) {
        var buffer = [UInt8](repeating: 0, count: 16 << 10)
        while true {
            let count = buffer.withMutableBytes { session.takeOutput(into: $0) }
            if count == 0 { return }
            try buffer.withBytes { (raw) throws(PeeringError) in
                try Wire.sendAll(socket, UnsafeRawBufferPointer(rebasing: raw[..<count]), deadline)
            }
        }
    }

    private static func send(
        _ bytes: [UInt8], _ session: TLSSession, _ socket: borrowing FileDescriptor, _ deadline: Deadline
    ) throws(PeeringError) {
        try bytes.withBytes { (raw) throws(PeeringError) in try session.write(raw) }
        try flush(session, socket, deadline)
    }

    private static func receiveHello(
        _ session: TLSSession, _ socket: borrowing FileDescriptor, _ state: inout Channel.ReceiveState,
        _ deadline: Deadline, _ peer: String
    ) throws(PeeringError) -> Hello {
        var buffer = [UInt8](repeating: 0, count: 16 << 10)
        while true {
            if let message = state.takeMessage() {
                guard message.type == Hello.messageType else {
                    throw .malformedHello("the first message has type \(message.type)")
                }
                return try Hello.decode(message.payload)
            }
            let count = try state.plain.withMutableBytes { (plain) throws(PeeringError) in
                try session.read(into: plain)
            }
            if count > 0 {
                try state.decode(count)
            } else {
                try feed(session, socket, &buffer, deadline, "Hello from \(peer)")
            }
        }
    }
}
