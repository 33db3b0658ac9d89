import CKernel
import Glibc

@testable import Addressing
@testable import Kernel

/// A socket of the calling thread's namespace, with the few calls these tests need.
final class Socket: Sendable {
    let descriptor: FileDescriptor

    init(owning raw: Int32) { descriptor = FileDescriptor(owning: raw) }

    init(_ family: VirtualAddress.Family, stream: Bool) throws {
        let type = Int32(stream ? SOCK_STREAM.rawValue : SOCK_DGRAM.rawValue)
        descriptor = FileDescriptor(owning: try systemCall("socket") { socket(family.number, type, 0) })
        var limit = timeval(tv_sec: 5, tv_usec: 0)
        try systemCall("setsockopt") {
            setsockopt(descriptor.raw, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        }
    }

    /// Calls `body` with the address as a sockaddr.
    private static func with(
        _ address: VirtualAddress, _ port: UInt16, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32
    ) -> Int32 {
        var bytes = [UInt8](repeating: 0, count: address.family == .ipv4 ? 16 : 28)
        bytes[0] = UInt8(address.family.number)
        bytes[2] = UInt8(port >> 8)
        bytes[3] = UInt8(port & 0xff)
        let offset = address.family == .ipv4 ? 4 : 8
        bytes.replaceSubrange(offset..<offset + address.bytes.count, with: address.bytes)
        return bytes.withUnsafeBytes {
            body($0.baseAddress!.assumingMemoryBound(to: sockaddr.self), socklen_t($0.count))
        }
    }

    func option(_ level: Int32, _ name: Int32, _ value: Int32) throws {
        var value = value
        try systemCall("setsockopt") { setsockopt(descriptor.raw, level, name, &value, 4) }
    }

    func bind(_ address: VirtualAddress, _ port: UInt16) throws {
        try systemCall("bind", on: address.text) { Self.with(address, port) { Glibc.bind(descriptor.raw, $0, $1) } }
    }

    func connect(_ address: VirtualAddress, _ port: UInt16) throws {
        try systemCall("connect", on: address.text) {
            Self.with(address, port) { Glibc.connect(descriptor.raw, $0, $1) }
        }
    }

    static func listening(_ address: VirtualAddress, _ port: UInt16) throws -> Socket {
        let socket = try Socket(address.family, stream: true)
        try socket.option(SOL_SOCKET, SO_REUSEADDR, 1)
        try socket.bind(address, port)
        try systemCall("listen") { listen(socket.descriptor.raw, 64) }
        return socket
    }

    static func connected(_ address: VirtualAddress, _ port: UInt16, stream: Bool = true) throws -> Socket {
        let socket = try Socket(address.family, stream: stream)
        if stream { try socket.option(Int32(IPPROTO_TCP), TCP_NODELAY, 1) }
        try socket.connect(address, port)
        return socket
    }

    func accept() throws -> Socket {
        Socket(owning: try systemCall("accept") { Glibc.accept(descriptor.raw, nil, nil) })
    }

    func send(_ bytes: [UInt8]) throws {
        var done = 0
        while done < bytes.count {
            done += try systemCall("send") {
                bytes.withUnsafeBytes { Glibc.send(descriptor.raw, $0.baseAddress! + done, bytes.count - done, 0) }
            }
        }
    }

    /// One recv; empty at the end of a stream.
    func receive(_ limit: Int = 65536, flags: Int32 = 0) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: limit)
        let count = try systemCall("recv") { recv(descriptor.raw, &bytes, limit, flags) }
        return Array(bytes.prefix(count))
    }

    func receiveToEnd() throws -> [UInt8] {
        var all: [UInt8] = []
        while true {
            let piece = try receive()
            if piece.isEmpty { return all }
            all += piece
        }
    }

    func finish() throws { try systemCall("shutdown") { shutdown(descriptor.raw, Int32(SHUT_WR)) } }
}

/// A counter of /proc/net/snmp or netstat in the calling thread's namespace, for example `Tcp`, `RetransSegs`.
func networkCounter(_ group: String, _ name: String) throws -> Int {
    for file in ["snmp", "netstat"] {
        let lines = try Files.readText("/proc/thread-self/net/\(file)").split(separator: "\n")
            .filter { $0.hasPrefix(group + ":") }.map { $0.split(separator: " ") }
        guard lines.count == 2, let index = lines[0].firstIndex(of: Substring(name)) else { continue }
        return Int(lines[1][index]) ?? -1
    }
    throw CommandFailed(description: "no counter \(group) \(name)")
}

/// What the calling thread's namespace had to send again.
///
/// A tail loss probe (RFC 8985, section 7) repeats a segment merely because no acknowledgement came for a moment, which
/// is what a hold is; whether one is sent depends on how busy the machine is. It is counted apart from repairs.
struct Repetitions: CustomStringConvertible {
    let segments: Int
    let probes: Int
    let timeouts: Int
    let recoveries: Int

    init() throws {
        segments = try networkCounter("Tcp", "RetransSegs")
        probes = try networkCounter("TcpExt", "TCPLossProbes")
        timeouts = try networkCounter("TcpExt", "TCPTimeouts")
        recoveries = try ["TCPSackRecovery", "TCPRenoRecovery", "TCPFastRetrans", "TCPLossProbeRecovery"]
            .reduce(0) { try $0 + networkCounter("TcpExt", $1) }
    }

    private init(_ later: Repetitions, minus earlier: Repetitions) {
        segments = later.segments - earlier.segments
        probes = later.probes - earlier.probes
        timeouts = later.timeouts - earlier.timeouts
        recoveries = later.recoveries - earlier.recoveries
    }

    static func - (later: Repetitions, earlier: Repetitions) -> Repetitions { Repetitions(later, minus: earlier) }

    /// Whether the sender believed that nothing was lost.
    var areOnlyProbes: Bool { segments <= probes && timeouts == 0 && recoveries == 0 }

    var description: String {
        "\(segments) segments repeated, \(probes) probes, \(timeouts) timeouts, \(recoveries) recoveries"
    }
}
