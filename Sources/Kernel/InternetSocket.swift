import CKernel
import Glibc

/// An IPv4 or IPv6 address with a port, as sockaddr_in or sockaddr_in6.
public struct SocketAddress: Sendable, Hashable, CustomStringConvertible {
    /// 4 or 16 bytes in network order.
    public let bytes: [UInt8]
    public let port: UInt16
    /// The interface of a link-local IPv6 address; 0 when none is meant.
    public let scope: UInt32

    /// Parses a numeric address, inet_pton(3), with an optional `%interface`; nil for anything else, names included.
    public init?(_ text: String, port: UInt16) {
        let parts = text.split(separator: "%", maxSplits: 1, omittingEmptySubsequences: false)
        var bytes = [UInt8](repeating: 0, count: 16)
        let host = String(parts.first ?? "")
        var scope: UInt32 = 0
        if parts.count == 2 {
            scope = if_nametoindex(String(parts[1]))
            if scope == 0 { return nil }
        }
        if parts.count == 1, inet_pton(AF_INET, host, &bytes) == 1 {
            bytes = Array(bytes[..<4])
        } else if inet_pton(AF_INET6, host, &bytes) != 1 {
            return nil
        }
        self.bytes = bytes
        self.port = port
        self.scope = scope
    }

    /// An address of 4 or 16 bytes in network order; nil for another count.
    public init?(bytes: [UInt8], port: UInt16, scope: UInt32 = 0) {
        guard bytes.count == 4 || bytes.count == 16 else { return nil }
        self.bytes = bytes
        self.port = port
        self.scope = scope
    }

    /// Reads a kernel-filled address; nil for another family.
    init?(_ storage: sockaddr_storage) {
        var storage = storage
        scope = storage.ss_family == UInt16(AF_INET6) ? Self.scope(&storage) : 0
        switch Int32(storage.ss_family) {
        case AF_INET:
            (bytes, port) = withUnsafeBytes(of: &storage) { raw in
                (Array(raw[4..<8]), UInt16(raw[2]) << 8 | UInt16(raw[3]))
            }
        case AF_INET6:
            (bytes, port) = withUnsafeBytes(of: &storage) { raw in
                (Array(raw[8..<24]), UInt16(raw[2]) << 8 | UInt16(raw[3]))
            }
        default:
            return nil
        }
    }

    private static func scope(_ storage: inout sockaddr_storage) -> UInt32 {
        withUnsafeBytes(of: &storage) { $0.loadUnaligned(fromByteOffset: 24, as: UInt32.self) }
    }

    public var isIPv4: Bool { bytes.count == 4 }
    /// AF_INET or AF_INET6.
    public var family: Int32 { isIPv4 ? AF_INET : AF_INET6 }

    /// The address without the port, inet_ntop(3).
    public var host: String {
        var text = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
        inet_ntop(family, bytes, &text, socklen_t(text.count))
        let numeric = String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        return scope == 0 ? numeric : "\(numeric)%\(scope)"
    }

    public var description: String { isIPv4 ? "\(host):\(port)" : "[\(host)]:\(port)" }

    fileprivate func withRaw<Result>(_ body: (UnsafePointer<sockaddr>, socklen_t) -> Result) -> Result {
        var storage = sockaddr_storage()
        withUnsafeMutableBytes(of: &storage) { raw in
            raw.storeBytes(of: UInt16(family), as: UInt16.self)
            raw.storeBytes(of: port.bigEndian, toByteOffset: 2, as: UInt16.self)
            raw.baseAddress!.advanced(by: isIPv4 ? 4 : 8).copyMemory(from: bytes, byteCount: bytes.count)
            if !isIPv4 { raw.storeBytes(of: scope, toByteOffset: 24, as: UInt32.self) }
        }
        let size = isIPv4 ? MemoryLayout<sockaddr_in>.size : MemoryLayout<sockaddr_in6>.size
        return withUnsafePointer(to: &storage) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, socklen_t(size)) }
        }
    }
}

/// Sockets of the IP families: socket(2), bind(2), connect(2), accept4(2), send(2), recv(2).
public enum InternetSocket {
    /// A close-on-exec, non-blocking socket of `type` (SOCK_STREAM or SOCK_DGRAM as integers).
    public static func make(family: Int32, type: Int32) throws(KernelError) -> FileDescriptor {
        let raw = try systemCall("socket", on: family == AF_INET ? "IPv4" : "IPv6") {
            socket(family, type | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue), 0)
        }
        return FileDescriptor(owning: raw)
    }

    public static let stream = Int32(SOCK_STREAM.rawValue)
    public static let datagram = Int32(SOCK_DGRAM.rawValue)

    public static func bind(_ socket: borrowing FileDescriptor, to address: SocketAddress) throws(KernelError) {
        let raw = socket.raw
        try systemCall("bind", on: "\(address)") { address.withRaw { Glibc.bind(raw, $0, $1) } }
    }

    public static func listen(_ socket: borrowing FileDescriptor, backlog: Int32) throws(KernelError) {
        let raw = socket.raw
        try systemCall("listen", on: "fd \(raw)") { Glibc.listen(raw, backlog) }
    }

    /// Connects a non-blocking socket, waiting up to `deadline`; ETIMEDOUT when it passed.
    public static func connect(
        _ socket: borrowing FileDescriptor, to address: SocketAddress, until deadline: Deadline
    ) throws(KernelError) {
        let raw = socket.raw
        do throws(KernelError) {
            try systemCall("connect", on: "\(address)") { address.withRaw { Glibc.connect(raw, $0, $1) } }
        } catch  where error.code.rawValue == EINPROGRESS {
            guard try Poll.wait(raw, for: POLLOUT, until: deadline) != nil else {
                throw KernelError(call: "connect", object: "\(address)", code: .timedOut)
            }
            let code = try integerOption(raw, SOL_SOCKET, SO_ERROR)
            if code != 0 { throw KernelError(call: "connect", object: "\(address)", code: Errno(rawValue: code)) }
        }
    }

    /// Accepts a connection as a close-on-exec, non-blocking socket; EAGAIN when there is none.
    public static func accept(_ listener: borrowing FileDescriptor) throws(KernelError) -> FileDescriptor {
        let raw = listener.raw
        // By number: accept4's wrapper needs _GNU_SOURCE.
        let flags = Int(SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue)
        let accepted = try systemCall("accept4", on: "fd \(raw)") {
            ck_syscall(Int(SYS_accept4), Int(raw), 0, 0, flags, 0, 0)
        }
        return FileDescriptor(owning: Int32(accepted))
    }

    /// getsockname(2).
    public static func localAddress(_ socket: borrowing FileDescriptor) throws(KernelError) -> SocketAddress? {
        let raw = socket.raw
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        try systemCall("getsockname", on: "fd \(raw)") {
            withUnsafeMutablePointer(to: &storage) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(raw, $0, &length) }
            }
        }
        return SocketAddress(storage)
    }

    /// getpeername(2).
    public static func remoteAddress(_ socket: borrowing FileDescriptor) throws(KernelError) -> SocketAddress? {
        let raw = socket.raw
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        try systemCall("getpeername", on: "fd \(raw)") {
            withUnsafeMutablePointer(to: &storage) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getpeername(raw, $0, &length) }
            }
        }
        return SocketAddress(storage)
    }

    /// setsockopt(2) of an integer option.
    public static func set(
        _ socket: borrowing FileDescriptor, _ level: Int32, _ option: Int32, _ value: Int32
    ) throws(KernelError) {
        let raw = socket.raw
        var value = value
        try systemCall("setsockopt", on: "fd \(raw) level \(level) option \(option)") {
            setsockopt(raw, level, option, &value, socklen_t(MemoryLayout<Int32>.size))
        }
    }

    private static func integerOption(_ raw: Int32, _ level: Int32, _ option: Int32) throws(KernelError) -> Int32 {
        var value: Int32 = 0
        var length = socklen_t(MemoryLayout<Int32>.size)
        try systemCall("getsockopt", on: "fd \(raw)") { getsockopt(raw, level, option, &value, &length) }
        return value
    }

    /// send(2) with MSG_NOSIGNAL: a vanished peer is EPIPE, not SIGPIPE. Returns the count taken; EAGAIN when full.
    public static func send(
        _ socket: borrowing FileDescriptor, _ bytes: UnsafeRawBufferPointer
    ) throws(KernelError) -> Int {
        let raw = socket.raw
        return try systemCall("send", on: "fd \(raw)") {
            Glibc.send(raw, bytes.baseAddress, bytes.count, Int32(MSG_NOSIGNAL))
        }
    }

    /// recv(2); 0 at end of stream; EAGAIN when nothing is there.
    public static func receive(
        _ socket: borrowing FileDescriptor, into buffer: UnsafeMutableRawBufferPointer
    ) throws(KernelError) -> Int {
        let raw = socket.raw
        return try systemCall("recv", on: "fd \(raw)") { Glibc.recv(raw, buffer.baseAddress, buffer.count, 0) }
    }

    /// shutdown(2) of both directions: wakes whoever waits on the socket.
    public static func shutdown(_ socket: borrowing FileDescriptor) throws(KernelError) {
        let raw = socket.raw
        try systemCall("shutdown", on: "fd \(raw)") { Glibc.shutdown(raw, Int32(SHUT_RDWR)) }
    }
    /// Breaks a TCP connection off: what it has not sent yet is never sent, and the peer is told by a reset, if it can
    /// be. connect(2) to an address of AF_UNSPEC, tcp_disconnect in net/ipv4/tcp.c.
    public static func abort(_ socket: borrowing FileDescriptor) throws(KernelError) {
        let raw = socket.raw
        var nobody = sockaddr(sa_family: sa_family_t(AF_UNSPEC), sa_data: (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0))
        try systemCall("connect", on: "fd \(raw), AF_UNSPEC") {
            Glibc.connect(raw, &nobody, socklen_t(MemoryLayout<sockaddr>.size))
        }
    }
}
