import CKernel
import Glibc

/// socket(7): calls on descriptors of sockets.
public enum Socket {
    /// socket(2) with SOCK_CLOEXEC.
    public static func make(_ family: Int32, _ type: Int32, _ protocolNumber: Int32) throws(KernelError)
        -> FileDescriptor
    {
        FileDescriptor(
            owning: try systemCall("socket", on: "family \(family) type \(type)") {
                socket(family, type | 0o2000000, protocolNumber)
            })
    }

    /// socketpair(2) with SOCK_CLOEXEC.
    public static func makePair(_ type: Int32) throws(KernelError) -> Pair {
        var raw: (Int32, Int32) = (0, 0)
        try systemCall("socketpair") {
            withUnsafeMutablePointer(to: &raw) {
                ck_syscall(Int(SYS_socketpair), Int(AF_UNIX), Int(type | 0o2000000), 0, Int(bitPattern: $0), 0, 0)
            }
        }
        return Pair(first: FileDescriptor(owning: raw.0), second: FileDescriptor(owning: raw.1))
    }

    public struct Pair: ~Copyable {
        public let first: FileDescriptor
        public let second: FileDescriptor

        public init(first: consuming FileDescriptor, second: consuming FileDescriptor) {
            self.first = first
            self.second = second
        }
    }

    // MARK: Options

    /// getsockopt(2): the value, at most `limit` bytes of it.
    public static func option(
        _ socket: borrowing FileDescriptor, _ level: Int32, _ name: Int32, limit: Int = 4
    ) throws(KernelError) -> [UInt8] {
        let raw = socket.raw
        var value = [UInt8](repeating: 0, count: limit)
        var length = UInt32(limit)
        try systemCall("getsockopt", on: "fd \(raw) level \(level) option \(name)") {
            value.withUnsafeMutableBytes { getsockopt(raw, level, name, $0.baseAddress, &length) }
        }
        return Array(value.prefix(Int(length)))
    }

    /// getsockopt(2) into the beginning of `buffer`, which is as long as the value may be: nothing is allocated.
    /// Returns the value's length.
    public static func option(
        _ socket: borrowing FileDescriptor, _ level: Int32, _ name: Int32, limit: Int, into buffer: inout [UInt8]
    ) throws(KernelError) -> Int {
        let raw = socket.raw
        var length = UInt32(min(limit, buffer.count))
        try systemCall("getsockopt", on: "fd \(raw) level \(level) option \(name)") {
            buffer.withUnsafeMutableBytes { getsockopt(raw, level, name, $0.baseAddress, &length) }
        }
        return Int(length)
    }

    /// getsockopt(2) of an `int`.
    public static func integer(
        _ socket: borrowing FileDescriptor, _ level: Int32, _ name: Int32
    ) throws(KernelError) -> Int32 {
        let bytes = try option(socket, level, name)
        return bytes.reversed().reduce(Int32(0)) { $0 << 8 | Int32($1) }
    }

    /// setsockopt(2).
    public static func setOption(
        _ socket: borrowing FileDescriptor, _ level: Int32, _ name: Int32, _ value: [UInt8]
    ) throws(KernelError) {
        let raw = socket.raw
        try systemCall("setsockopt", on: "fd \(raw) level \(level) option \(name)") {
            value.withUnsafeBytes { setsockopt(raw, level, name, $0.baseAddress, UInt32(value.count)) }
        }
    }

    /// setsockopt(2) of an `int`.
    public static func setInteger(
        _ socket: borrowing FileDescriptor, _ level: Int32, _ name: Int32, _ value: Int32
    ) throws(KernelError) {
        try setOption(socket, level, name, withUnsafeBytes(of: value) { Array($0) })
    }

    // MARK: Addresses

    public static func bind(_ socket: borrowing FileDescriptor, _ address: SocketName) throws(KernelError) {
        let raw = socket.raw
        try systemCall("bind", on: "\(address)") {
            withPointer(address) { Glibc.bind(raw, $0, $1) }
        }
    }

    public static func connect(_ socket: borrowing FileDescriptor, _ address: SocketName) throws(KernelError) {
        let raw = socket.raw
        try systemCall("connect", on: "\(address)") {
            withPointer(address) { Glibc.connect(raw, $0, $1) }
        }
    }

    public static func listen(_ socket: borrowing FileDescriptor, backlog: Int32) throws(KernelError) {
        let raw = socket.raw
        try systemCall("listen", on: "fd \(raw)") { Glibc.listen(raw, backlog) }
    }

    /// accept4(2) with SOCK_CLOEXEC.
    public static func accept(_ socket: borrowing FileDescriptor) throws(KernelError) -> FileDescriptor {
        let raw = socket.raw
        return FileDescriptor(
            owning: Int32(
                try systemCall("accept4", on: "fd \(raw)") {
                    ck_syscall(Int(SYS_accept4), Int(raw), 0, 0, 0o2000000, 0, 0)
                }))
    }

    public static func localAddress(_ socket: borrowing FileDescriptor) throws(KernelError) -> SocketName {
        let raw = socket.raw
        return try address("getsockname", raw) { getsockname(raw, $0, $1) }
    }

    public static func remoteAddress(_ socket: borrowing FileDescriptor) throws(KernelError) -> SocketName {
        let raw = socket.raw
        return try address("getpeername", raw) { getpeername(raw, $0, $1) }
    }

    private static func address(
        _ call: StaticString, _ raw: Int32,
        _ body: (UnsafeMutablePointer<sockaddr>, UnsafeMutablePointer<UInt32>) -> Int32
    ) throws(KernelError) -> SocketName {
        var bytes = [UInt8](repeating: 0, count: 128)
        var length: UInt32 = 128
        try systemCall(call, on: "fd \(raw)") {
            bytes.withUnsafeMutableBytes { body($0.assumingMemoryBound(to: sockaddr.self).baseAddress!, &length) }
        }
        return SocketName(bytes: Array(bytes.prefix(Int(length))))
    }

    private static func withPointer(
        _ address: SocketName, _ body: (UnsafePointer<sockaddr>, UInt32) -> Int32
    ) -> Int32 {
        address.bytes.withUnsafeBytes {
            body($0.assumingMemoryBound(to: sockaddr.self).baseAddress!, UInt32(address.bytes.count))
        }
    }

    // MARK: Data

    /// shutdown(2): SHUT_RD 0, SHUT_WR 1, SHUT_RDWR 2.
    public static func shutdown(_ socket: borrowing FileDescriptor, _ how: Int32) throws(KernelError) {
        let raw = socket.raw
        try systemCall("shutdown", on: "fd \(raw)") { Glibc.shutdown(raw, how) }
    }

    /// One send(2); MSG_NOSIGNAL is always added. How many bytes were taken.
    public static func send(
        _ socket: borrowing FileDescriptor, _ bytes: ArraySlice<UInt8>, flags: Int32 = 0
    ) throws(KernelError) -> Int {
        let raw = socket.raw
        return try systemCall("send", on: "fd \(raw)") {
            bytes.withUnsafeBytes { Glibc.send(raw, $0.baseAddress, bytes.count, flags | 0x4000) }
        }
    }

    /// send(2) without waiting, in pieces of at most `chunk` bytes, until all are taken; EAGAIN when they do not fit.
    public static func sendAll(
        _ socket: borrowing FileDescriptor, _ bytes: [UInt8], chunk: Int = 32768
    ) throws(KernelError) {
        var done = 0
        while done < bytes.count {
            done += try send(socket, bytes[done..<min(done + chunk, bytes.count)], flags: 0x40)
        }
    }

    /// sendto(2) of one datagram.
    public static func send(
        _ socket: borrowing FileDescriptor, _ bytes: [UInt8], to address: SocketName
    ) throws(KernelError) {
        let raw = socket.raw
        try systemCall("sendto", on: "\(address)") {
            bytes.withUnsafeBytes { buffer in
                Int32(withPointer(address) { Int32(sendto(raw, buffer.baseAddress, bytes.count, 0x4000, $0, $1)) })
            }
        }
    }

    /// recv(2) of at most `count` bytes.
    public static func receive(
        _ socket: borrowing FileDescriptor, upTo count: Int, flags: Int32 = 0
    ) throws(KernelError) -> [UInt8] {
        let raw = socket.raw
        var bytes = [UInt8](repeating: 0, count: count)
        let got = try systemCall("recv", on: "fd \(raw)") {
            bytes.withUnsafeMutableBytes { recv(raw, $0.baseAddress, count, flags) }
        }
        bytes.removeLast(count - got)
        return bytes
    }

    // MARK: Queues

    /// SIOCINQ: bytes that can be read; tcp(7), unix(7).
    public static func readable(_ socket: borrowing FileDescriptor) throws(KernelError) -> Int32 {
        try queue("SIOCINQ", socket, 0x541b)
    }
    /// SIOCOUTQ: bytes sent or waiting that the peer has not acknowledged; a FIN counts as one.
    public static func unacknowledged(_ socket: borrowing FileDescriptor) throws(KernelError) -> Int32 {
        try queue("SIOCOUTQ", socket, 0x5411)
    }
    /// SIOCOUTQNSD of <linux/sockios.h>: bytes not sent even once.
    public static func unsent(_ socket: borrowing FileDescriptor) throws(KernelError) -> Int32 {
        try queue("SIOCOUTQNSD", socket, 0x894b)
    }

    private static func queue(
        _ name: String, _ socket: borrowing FileDescriptor, _ request: UInt
    ) throws(KernelError) -> Int32 {
        let raw = socket.raw
        var value: Int32 = 0
        try systemCall("ioctl", on: "fd \(raw) \(name)") { ck_ioctl(raw, request, &value) }
        return value
    }

    /// Changes the file status flags in `mask` to those of `flags`; fcntl(2) F_SETFL.
    public static func setStatusFlags(
        _ socket: borrowing FileDescriptor, _ flags: Int32, mask: Int32 = O_NONBLOCK
    ) throws(KernelError) {
        let raw = socket.raw
        let old = try systemCall("fcntl", on: "fd \(raw)") { ck_fcntl(raw, F_GETFL, 0) }
        try systemCall("fcntl", on: "fd \(raw)") { ck_fcntl(raw, F_SETFL, Int(old & ~mask | flags & mask)) }
    }
}
