import CKernel
import Glibc

/// One TCP segment (RFC 9293, 3.1), given to a socket of this host over its loopback interface as if the peer had sent
/// it, or sent to the peer.
public struct TCPSegment: Sendable {
    public struct Flags: OptionSet, Sendable {
        public let rawValue: UInt8
        public init(rawValue: UInt8) { self.rawValue = rawValue }
        public static let fin = Flags(rawValue: 0x01), syn = Flags(rawValue: 0x02)
        public static let rst = Flags(rawValue: 0x04), ack = Flags(rawValue: 0x10)
    }

    public var source: SocketName
    public var destination: SocketName
    public var sequence: UInt32
    /// As in the header: shifted right by the window scale.
    public var window: UInt16
    /// Header options, padded by the sender to a multiple of four bytes.
    public var options: [UInt8] = []
    public var payload: [UInt8] = []

    public init(source: SocketName, destination: SocketName, sequence: UInt32, window: UInt16) {
        self.source = source
        self.destination = destination
        self.sequence = sequence
        self.window = window
    }

    /// Not for the queue in which packets for the address wait: HOLD_PASS of Sources/CPrograms/bpf/hold.h.
    static let passingMark: Int32 = 0x6d6f_6270

    /// Sends it through a raw socket, raw(7). Where `destination` is an address of this host, it goes by loopback.
    public func send(acknowledging acknowledgement: UInt32, finish: Bool) throws(KernelError) {
        try send(acknowledging: acknowledgement, finish ? [.ack, .fin] : [.ack])
    }

    public func send(acknowledging acknowledgement: UInt32, _ flags: Flags) throws(KernelError) {
        try send(acknowledging: acknowledgement, flags, through: try Self.sender(isIPv4 ? AF_INET : AF_INET6))
    }

    /// A raw socket for many segments of one family: its making takes longer than a sending.
    public static func sender(_ family: Int32) throws(KernelError) -> FileDescriptor {
        let raw = try Socket.make(family, Int32(SOCK_RAW.rawValue), 255)  // IPPROTO_RAW
        try Socket.setInteger(raw, 1, 36, passingMark)  // SO_MARK
        return raw
    }

    public func send(
        acknowledging acknowledgement: UInt32, _ flags: Flags, through raw: borrowing FileDescriptor
    ) throws(KernelError) {
        let header = tcpHeader(acknowledgement, flags)
        var target =
            isIPv4
            ? SocketName.ipv4(destinationBytes, port: 0) : SocketName.ipv6(destinationBytes, port: 0)
        target.port = 0
        try Socket.send(raw, ipHeader(length: header.count + payload.count) + header + payload, to: target)
    }

    private var isIPv4: Bool { destination.ipv4Bytes != nil }
    private var sourceBytes: [UInt8] { source.ipv4Bytes ?? source.address }
    private var destinationBytes: [UInt8] { destination.ipv4Bytes ?? destination.address }

    private func big<Value: FixedWidthInteger>(_ value: Value) -> [UInt8] {
        withUnsafeBytes(of: value.bigEndian) { Array($0) }
    }

    private func tcpHeader(_ acknowledgement: UInt32, _ flags: Flags) -> [UInt8] {
        var header = big(source.port) + big(destination.port) + big(sequence) + big(acknowledgement)
        header += [UInt8(5 + options.count / 4) << 4, flags.rawValue] + big(window) + [0, 0, 0, 0] + options
        let pseudo = sourceBytes + destinationBytes + big(UInt32(header.count + payload.count)) + [0, 0, 0, 6]
        header.replaceSubrange(16..<18, with: big(InternetChecksum.of(pseudo + header + payload)))
        return header
    }

    private func ipHeader(length: Int) -> [UInt8] {
        guard isIPv4 else {
            return [0x60, 0, 0, 0] + big(UInt16(length)) + [6, 64] + sourceBytes + destinationBytes
        }
        // The kernel fills in total length and checksum, raw(7).
        return [0x45, 0] + big(UInt16(20 + length)) + [0, 0, 0x40, 0, 64, 6, 0, 0] + sourceBytes + destinationBytes
    }
}
