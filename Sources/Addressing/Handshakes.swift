import Glibc
import Kernel

/// struct hold_connection of handshake.h.
private struct ConnectionKey: BitwiseCopyable {
    var localHigh: UInt64 = 0
    var localLow: UInt64 = 0
    var remoteHigh: UInt64 = 0
    var remoteLow: UInt64 = 0
    var localPort: UInt16 = 0
    var remotePort: UInt16 = 0

    init(_ handshake: TCPHandshake) {
        (localHigh, localLow) = Self.words(handshake.local)
        (remoteHigh, remoteLow) = Self.words(handshake.remote)
        localPort = handshake.local.port
        remotePort = handshake.remote.port
    }

    private static func name(_ high: UInt64, _ low: UInt64, _ port: UInt16) -> SocketName {
        let bytes = [high, low].flatMap { word in withUnsafeBytes(of: word) { Array($0) } }
        let isMapped = bytes.starts(with: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff])
        return .ip(bytes, port: port, family: isMapped ? AF_INET : AF_INET6)
    }

    init() {}
    var local: SocketName { Self.name(localHigh, localLow, localPort) }
    var remote: SocketName { Self.name(remoteHigh, remoteLow, remotePort) }

    private static func words(_ name: SocketName) -> (UInt64, UInt64) {
        name.address.withUnsafeBytes {
            (
                $0.loadUnaligned(fromByteOffset: 0, as: UInt64.self),
                $0.loadUnaligned(fromByteOffset: 8, as: UInt64.self)
            )
        }
    }
}

/// struct hold_handshake of handshake.h.
private struct HandshakeRecord: BitwiseCopyable {
    var at: Int64 = 0
    var expires: Int64 = 0
    var sequence: UInt32 = 0
    var receiveSequence: UInt32 = 0
    var timestamp: UInt32 = 0
    var timestampRecent: UInt32 = 0
    var segment: UInt16 = 0
    var sendScale: UInt8 = 0
    var receiveScale: UInt8 = 0
    var hasScales: UInt8 = 0
    var hasSack: UInt8 = 0
    var hasTimestamps: UInt8 = 0
    var hasECN: UInt8 = 0
    var countsMicroseconds: UInt8 = 0
    var unused: (UInt8, UInt8, UInt8, UInt8, UInt8, UInt8, UInt8) = (0, 0, 0, 0, 0, 0, 0)

    func handshake(_ key: ConnectionKey) -> TCPHandshake {
        TCPHandshake(
            local: key.local, remote: key.remote, sendSequence: sequence, receiveSequence: receiveSequence,
            maximumSegment: segment, options: hasECN << 3 | hasScales << 2 | hasSack << 1 | hasTimestamps,
            sendScale: sendScale, receiveScale: receiveScale, timestamp: timestamp,
            countsMicroseconds: countsMicroseconds != 0, timestampRecent: timestampRecent)
    }
}

extension HoldQueue {
    /// How long a peer may take for the segment that makes its connection here, ns: what a host waits for the last
    /// segment of a handshake with net.ipv4.tcp_synack_retries at 5.
    public static let handshakePatience: Int64 = 63_000_000_000

    /// From now on a segment of this peer that acknowledges our SYN makes the connection in the accept queue of the
    /// listener for its address, although no such handshake was made here. The programs have to be attached to the
    /// interface by which it comes.
    public func expect(_ handshake: TCPHandshake) throws(AddressingError) {
        try kernel { () throws(KernelError) in
            let now = Clock.kernelMonotonic
            let expires = now + Self.handshakePatience
            try programs.handshakes.set(
                ConnectionKey(handshake),
                to: HandshakeRecord(
                    at: now, expires: expires, sequence: handshake.sendSequence,
                    receiveSequence: handshake.receiveSequence, timestamp: handshake.timestamp,
                    timestampRecent: handshake.timestampRecent, segment: handshake.maximumSegment,
                    sendScale: handshake.sendScale, receiveScale: handshake.receiveScale,
                    hasScales: handshake.options >> 2 & 1, hasSack: handshake.options >> 1 & 1,
                    hasTimestamps: handshake.options & 1, hasECN: handshake.options >> 3 & 1,
                    countsMicroseconds: handshake.countsMicroseconds ? 1 : 0))
            try programs.handshakesUntil.set(UInt32(0), to: expires)
        }
    }

    /// Whether the peer's segment is still to come.
    public func isExpected(_ handshake: TCPHandshake) throws(AddressingError) -> Bool {
        try kernel { () throws(KernelError) in
            try programs.handshakes.value(ConnectionKey(handshake), empty: HandshakeRecord()) != nil
        }
    }

    /// The handshakes expected for these addresses (16 bytes each) whose peers have not answered, as they are now.
    public func expected(at addresses: [[UInt8]]) throws(AddressingError) -> [TCPHandshake] {
        try kernel { () throws(KernelError) in
            let now = Clock.kernelMonotonic
            guard let until = try programs.handshakesUntil.value(UInt32(0), empty: Int64(0)), until > now else {
                return []
            }
            var found: [TCPHandshake] = []
            for key in try programs.handshakes.keys(empty: ConnectionKey()) where addresses.contains(key.local.address)
            {
                let record = try programs.handshakes.value(key, empty: HandshakeRecord())
                if let record, record.expires > now { found.append(record.handshake(key).later(by: now - record.at)) }
            }
            return found
        }
    }

    /// Takes `expect` back. Repeatable.
    public func forget(_ handshake: TCPHandshake) throws(AddressingError) {
        try kernel { () throws(KernelError) in try programs.handshakes.remove(ConnectionKey(handshake)) }
    }

    /// Whether listeners here can take up connections whose handshake was made elsewhere: the kernel allows that where
    /// it would answer a flood of SYNs with cookies (net/ipv4/syncookies.c, cookie_v4_check).
    public static var takesHandshakes: Bool {
        (try? Files.readText("/proc/sys/net/ipv4/tcp_syncookies"))?.hasPrefix("0") == false
    }
}
