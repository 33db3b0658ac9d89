import CKernel
import Glibc

/// The word of a router that a segment was too large for its next link: ICMP "fragmentation needed" (RFC 1191, section
/// 4) or ICMPv6 "packet too big" (RFC 4443, section 3.2), given to a TCP socket of this host over loopback.
public struct PacketTooBig: Sendable {
    /// The ends of the connection, and the sequence number of the segment: one that its socket could have sent.
    public var local: SocketName
    public var remote: SocketName
    public var sequence: UInt32
    /// What the link takes, bytes of IP packet.
    public var mtu: UInt16

    public init(local: SocketName, remote: SocketName, sequence: UInt32, mtu: UInt16) {
        self.local = local
        self.remote = remote
        self.sequence = sequence
        self.mtu = mtu
    }

    /// The least that a path of the family must take: RFC 791, section 3.1, and RFC 8200, section 5.
    public static func least(_ family: Int32) -> UInt16 { family == AF_INET6 ? 1280 : 68 }

    /// Sends it from the connection's own address; it has been dealt with when this returns, or right after.
    public func send() throws(KernelError) {
        let source = local.ipv4Bytes ?? local.address
        let target = remote.ipv4Bytes ?? remote.address
        let isIPv4 = local.ipv4Bytes != nil
        // The first eight bytes of the segment are all that an error need quote.
        let segment = big(local.port) + big(remote.port) + big(sequence)
        let quoted = header(from: source, to: target, protocolNumber: 6, length: 20) + segment
        var message: [UInt8] =
            isIPv4 ? [3, 4, 0, 0, 0, 0] + big(mtu) : [2, 0, 0, 0] + big(UInt32(mtu))
        message += quoted
        let number: UInt8 = isIPv4 ? 1 : 58
        let pseudo = isIPv4 ? [] : source + source + big(UInt32(message.count)) + [0, 0, 0, number]
        message.replaceSubrange(2..<4, with: big(InternetChecksum.of(pseudo + message)))
        let raw = try Socket.make(isIPv4 ? AF_INET : AF_INET6, Int32(SOCK_RAW.rawValue), 255)  // IPPROTO_RAW
        try Socket.setInteger(raw, 1, 36, TCPSegment.passingMark)  // SO_MARK
        let packet = header(from: source, to: source, protocolNumber: number, length: message.count) + message
        try Socket.send(raw, packet, to: isIPv4 ? .ipv4(source, port: 0) : .ipv6(source, port: 0))
    }

    /// Of IP, with the highest time to live: a socket may ask for that (IP_MINTTL).
    private func header(from source: [UInt8], to target: [UInt8], protocolNumber: UInt8, length: Int) -> [UInt8] {
        if source.count == 16 {
            return [0x60, 0, 0, 0] + big(UInt16(length)) + [protocolNumber, 255] + source + target
        }
        return [0x45, 0] + big(UInt16(20 + length)) + [0, 0, 0x40, 0, 255, protocolNumber, 0, 0] + source + target
    }

    private func big<Value: FixedWidthInteger>(_ value: Value) -> [UInt8] {
        withUnsafeBytes(of: value.bigEndian) { Array($0) }
    }
}
