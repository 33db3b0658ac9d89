/// A TCP connection whose handshake was made on another host and whose socket nobody had accepted there, RFC 9293, 3.5.
/// It has sent nothing but its SYN.
public struct TCPHandshake: Codable, Sendable, Equatable {
    public var local: SocketName
    public var remote: SocketName
    /// The next byte that this side sends: its initial sequence number and one.
    public var sendSequence: UInt32
    /// The first byte of the peer's data: its initial sequence number and one.
    public var receiveSequence: UInt32
    /// The largest segment that the peer takes, its MSS option.
    public var maximumSegment: UInt16
    /// TCPI_OPT_TIMESTAMPS 1, TCPI_OPT_SACK 2, TCPI_OPT_WSCALE 4, TCPI_OPT_ECN 8 of <linux/tcp.h>.
    public var options: UInt8
    public var sendScale: UInt8
    public var receiveScale: UInt8
    /// Our timestamp clock now, and whether it counts microseconds; else milliseconds.
    public var timestamp: UInt32
    public var countsMicroseconds: Bool
    /// The peer's latest timestamp.
    public var timestampRecent: UInt32

    /// The same after some time, in which our timestamp clock has gone on. Two ticks more than that are added: the
    /// clock was read with its lowest bit cleared, and one that falls behind what the peer has seen makes it drop the
    /// segment (RFC 7323, 5.3).
    public func later(by nanoseconds: Int64) -> TCPHandshake {
        var copy = self
        copy.timestamp &+= UInt32(truncatingIfNeeded: max(0, nanoseconds) / (countsMicroseconds ? 1000 : 1_000_000) + 2)
        return copy
    }

    /// The options of our SYN: the largest `segment` that this side takes, and what both have agreed on; RFC 9293, 3.2,
    /// RFC 7323, RFC 2018.
    public func synOptions(segment: UInt16) -> [UInt8] {
        func big(_ value: UInt32) -> [UInt8] { withUnsafeBytes(of: value.bigEndian) { Array($0) } }
        var bytes: [UInt8] = [2, 4, UInt8(segment >> 8), UInt8(truncatingIfNeeded: segment)]
        if options & 2 != 0 { bytes += [4, 2] }
        if options & 1 != 0 { bytes += [8, 10] + big(timestamp) + big(timestampRecent) }
        if options & 4 != 0 { bytes += [3, 3, receiveScale] }
        return bytes + [UInt8](repeating: 1, count: (4 - bytes.count % 4) % 4)
    }

    public init(
        local: SocketName, remote: SocketName, sendSequence: UInt32, receiveSequence: UInt32, maximumSegment: UInt16,
        options: UInt8,
        sendScale: UInt8, receiveScale: UInt8, timestamp: UInt32, countsMicroseconds: Bool, timestampRecent: UInt32
    ) {
        self.local = local
        self.remote = remote
        self.sendSequence = sendSequence
        self.receiveSequence = receiveSequence
        self.maximumSegment = maximumSegment
        self.options = options
        self.sendScale = sendScale
        self.receiveScale = receiveScale
        self.timestamp = timestamp
        self.countsMicroseconds = countsMicroseconds
        self.timestampRecent = timestampRecent
    }
}
