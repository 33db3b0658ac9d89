import CKernel
import Glibc
import Kernel
import KernelCapture
import ProcessImage

/// What the kinds of unix(7) sockets share.
enum UnixDomain {
    static let stream: UInt16 = 1, datagram: UInt16 = 2
    static let listening: UInt8 = 10

    static func isUnix(_ probe: DescriptorProbe) -> Bool {
        probe.isSocket && probe.socket?.family == UInt16(AF_UNIX)
    }

    /// Connected, to a living peer or to one that has gone.
    static func isConnected(_ probe: DescriptorProbe) -> Bool {
        guard isUnix(probe), let socket = probe.socket, socket.state != listening else { return false }
        return socket.peerInode != 0 || socket.state == TCP.established
    }

    /// The name of what a socket is connected to; nil when it has none.
    static func peerName(_ probe: DescriptorProbe) -> SocketName? {
        guard let name = probe.socket?.peerName, !name.isEmpty else { return nil }
        return .unix(name)
    }

    /// SO_PEERCRED's process, for the text of a refusal; nil when it cannot be had.
    static func peerProcess(_ probe: DescriptorProbe) -> Int32? {
        guard let copy = try? ProcessDescriptors.take(pid: probe.pid, number: probe.number) else { return nil }
        return try? peerProcess(copy)
    }

    static func peerProcess(_ socket: borrowing FileDescriptor) throws(KernelError) -> Int32? {
        let bytes = try Socket.option(socket, SocketOption.socket, SocketOption.peerCredentials, limit: 12)
        let pid = bytes.prefix(4).reversed().reduce(Int32(0)) { $0 << 8 | Int32($1) }
        return pid > 0 ? pid : nil
    }

    /// Every message in the receive queue, in place; a stream's may be cut anywhere.
    static func peekAll(_ socket: borrowing FileDescriptor) throws(KernelError) -> [Socket.Message] {
        let level = SocketOption.socket
        let old = try Socket.integer(socket, level, SocketOption.peekOffset)
        let size = max(65536, Int(try Socket.readable(socket)))
        // An empty message of a datagram is one; a stream's is the end.
        let endsEmpty = try Socket.integer(socket, level, SO_TYPE) == 1
        try Socket.setInteger(socket, level, SocketOption.peekOffset, 0)
        var messages: [Socket.Message] = []
        let result: Result<Void, KernelError>
        do throws(KernelError) {
            while let message = try Socket.peekMessage(socket, upTo: size) {
                if message.bytes.isEmpty && endsEmpty { break }
                messages.append(message)
            }
            result = .success(())
        } catch {
            result = .failure(error)
        }
        try Socket.setInteger(socket, level, SocketOption.peekOffset, old)
        try result.get()
        return messages
    }

    /// The messages' bytes, or an error when something travels with them that only the peer can give.
    static func queue(
        of socket: borrowing FileDescriptor, subject: String
    ) throws(ResourceError) -> [Bytes] {
        let messages = try step(subject, "its queue cannot be read") { () throws(KernelError) in
            try peekAll(socket)
        }
        if messages.contains(where: { $0.hasDescriptors }) {
            throw ResourceError(subject, TransientProblem.unreadMessages + ": descriptors are in flight")
        }
        if messages.contains(where: { $0.isTruncated }) {
            throw ResourceError(subject, TransientProblem.unreadMessages + ": one is too large")
        }
        let passes = try step(subject, "its options cannot be read") { () throws(KernelError) in
            try Socket.integer(socket, SocketOption.socket, SocketOption.passCredentials)
        }
        if passes != 0 && !messages.isEmpty {
            throw ResourceError(subject, TransientProblem.unreadMessages + ": the sender's credentials are in flight")
        }
        return messages.map { Bytes($0.bytes) }
    }
}
