import Kernel

/// A TCP handshake whose last segment has not come, as a listener's request socket has it
/// (include/linux/tcp.h, struct tcp_request_sock).
public struct HandshakeRecord: Equatable, Sendable {
    public var handshake: TCPHandshake
    /// The peer has completed it, and the listener waits for its data; tcp(7) TCP_DEFER_ACCEPT.
    public var isComplete: Bool
}

extension RecordDecoder {
    static func handshakes(_ bytes: [UInt8]) throws(RecordError) -> [HandshakeRecord] {
        var reader = RecordReader(bytes)
        var found: [HandshakeRecord] = []
        while let header = try reader.nextRecord() {
            guard header.kind == 6 else {
                reader.skipRecord()
                continue
            }
            found.append(try handshake(&reader))
        }
        return found
    }

    private static func handshake(_ reader: inout RecordReader) throws(RecordError) -> HandshakeRecord {
        func word() throws(RecordError) -> UInt32 { UInt32(truncatingIfNeeded: try reader.word()) }
        let sent = try word()
        let received = try word()
        let timestamp = try word()
        let timestampRecent = try word()
        let segment = UInt16(truncatingIfNeeded: try word())
        let sendScale = UInt8(truncatingIfNeeded: try word())
        let receiveScale = UInt8(truncatingIfNeeded: try word())
        var options: UInt8 = 0
        for bit: UInt8 in [4, 2, 1, 8] where try reader.flag() { options |= bit }
        let countsMicroseconds = try reader.flag()
        let isComplete = try reader.flag()
        let localPort = UInt16(truncatingIfNeeded: try word())
        let remotePort = UInt16(truncatingIfNeeded: try word())
        let local = SocketName.ip(try reader.block(16), port: localPort, family: 10)  // AF_INET6, IPv4 mapped
        let remote = SocketName.ip(try reader.block(16), port: remotePort, family: 10)
        return HandshakeRecord(
            handshake: TCPHandshake(
                local: local, remote: remote, sendSequence: sent &+ 1, receiveSequence: received &+ 1,
                maximumSegment: segment, options: options,
                sendScale: sendScale, receiveScale: receiveScale, timestamp: timestamp,
                countsMicroseconds: countsMicroseconds, timestampRecent: timestampRecent),
            isComplete: isComplete)
    }
}
