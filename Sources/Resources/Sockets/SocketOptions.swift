import Kernel
import ProcessImage
import Synchronization

/// Everything about a socket that setsockopt(2) can give to another one.
struct SocketSettings: Codable {
    /// Set before bind(2); the rest afterwards.
    var early = PackedOptions()
    var late = PackedOptions()
    var reuseAddress: Int32 = 0
    /// SO_SNDBUF and SO_RCVBUF as getsockopt(2) shows them (twice what was asked for), and SO_BUF_LOCK: which of
    /// them the service has set itself, so that the kernel must not tune them.
    var sendBuffer: Int32 = 0
    var receiveBuffer: Int32 = 0
    var bufferLock: Int32 = 0
}

/// Numbers of <asm-generic/socket.h>, <linux/in.h>, <linux/in6.h>, <linux/tcp.h>, <linux/udp.h>.
enum SocketOption {
    static let socket: Int32 = 1
    static let ip: Int32 = 0
    static let ipv6: Int32 = 41
    static let tcp: Int32 = 6
    static let udp: Int32 = 17
    static let reuseAddress: Int32 = 2
    static let sendBuffer: Int32 = 7, receiveBuffer: Int32 = 8
    static let sendBufferForce: Int32 = 32, receiveBufferForce: Int32 = 33
    static let bufferLock: Int32 = 72
    static let transparent: Int32 = 19
    static let transparent6: Int32 = 75
    static let peerCredentials: Int32 = 17
    static let passCredentials: Int32 = 16
    static let peekOffset: Int32 = 42

    struct Entry {
        var level: Int32
        var name: Int32
        var size = 4
    }

    /// V6ONLY, BINDTODEVICE, REUSEPORT, FREEBIND, TRANSPARENT (both families), BIND_ADDRESS_NO_PORT,
    /// LOCAL_PORT_RANGE: bind(2) looks at them.
    static let early: [Entry] =
        [.init(level: ipv6, name: 26), .init(level: socket, name: 25, size: 16)]
        + [15].map { .init(level: socket, name: $0) }
        + [15, 19, 24, 51].map { .init(level: ip, name: $0) } + [75, 78].map { .init(level: ipv6, name: $0) }

    /// TOS changes SO_PRIORITY, so IP comes before the socket level.
    static let common: [Entry] = internet + general

    /// TOS, TTL, OPTIONS, RECVOPTS, PKTINFO, MTU_DISCOVER, RECVERR, RECVTTL, RECVTOS, PASSSEC, RECVORIGDSTADDR, MINTTL,
    /// CHECKSUM, RECVFRAGSIZE, RECVERR_RFC4884; then IPv6's UNICAST_HOPS, MTU_DISCOVER, RECVERR, RECVERR_RFC4884,
    /// FLOWINFO_SEND, RECVPKTINFO, RECVHOPLIMIT,
    /// RECVHOPOPTS, RECVRTHDR, RECVDSTOPTS, RECVPATHMTU, DONTFRAG, RECVTCLASS, TCLASS, AUTOFLOWLABEL,
    /// ADDR_PREFERENCES, MINHOPCOUNT, RECVORIGDSTADDR, RECVFRAGSIZE.
    private static let internet: [Entry] =
        [1, 2, 6, 8, 10, 11, 12, 13, 18, 20, 21, 23, 25, 26].map { .init(level: ip, name: $0) }
        + [16, 23, 25, 31, 33, 49, 51, 53, 56, 58, 60, 62, 66, 67, 70, 72, 73, 74, 77]
        .map { .init(level: ipv6, name: $0) }

    /// DONTROUTE, BROADCAST, KEEPALIVE, OOBINLINE, NO_CHECK, PRIORITY, LINGER, PASSCRED, RCVLOWAT, RCVTIMEO, SNDTIMEO,
    /// TIMESTAMP, PASSSEC, TIMESTAMPNS, MARK, TIMESTAMPING, RXQ_OVFL, SELECT_ERR_QUEUE, BUSY_POLL, MAX_PACING_RATE,
    /// ZEROCOPY, TIMESTAMP_NEW, TIMESTAMPNS_NEW, PREFER_BUSY_POLL, BUSY_POLL_BUDGET, TXREHASH, RCVMARK, PASSPIDFD,
    /// LOCK_FILTER.
    /// SO_INCOMING_CPU is left out: it tells about the host, not about the service.
    private static let general: [Entry] =
        [5, 6, 9, 10, 11, 12, 16, 18, 29, 34, 35, 36, 40, 45, 46, 60, 63, 64, 69, 70, 74, 75, 76, 44]
        .map { .init(level: socket, name: $0) }
        + [.init(level: socket, name: 13, size: 8), .init(level: socket, name: 20, size: 16)]
        + [.init(level: socket, name: 21, size: 16), .init(level: socket, name: 37, size: 8)]
        + [.init(level: socket, name: 47, size: 8)]

    /// CONGESTION first: choosing one resets others; NODELAY, CORK, KEEPIDLE, KEEPINTVL, KEEPCNT, SYNCNT, LINGER2,
    /// DEFER_ACCEPT, WINDOW_CLAMP, THIN_LINEAR, USER_TIMEOUT, FASTOPEN, NOTSENT_LOWAT, SAVE_SYN, FASTOPEN_CONNECT,
    /// FASTOPEN_NO_COOKIE, INQ, TX_DELAY, FASTOPEN_KEY.
    static let transmission: [Entry] =
        [.init(level: tcp, name: congestion, size: 16)]
        + [1, 3, 4, 5, 6, 7, 8, 9, 10, 16, 18, 23, 25, 27, 30, 34, 36, 37].map { .init(level: tcp, name: $0) }
        + [.init(level: tcp, name: 33, size: 32)]
    static let congestion: Int32 = 13
    /// QUICKACK tells of a passing mode of a connection and a lasting choice of others; MAXSEG is the user's wish
    /// before, the peer's answer after the handshake.
    static let unconnectedTransmission: [Entry] = [.init(level: tcp, name: 12), .init(level: tcp, name: 2)]
    /// CORK, ENCAP, NO_CHECK6_TX, NO_CHECK6_RX, SEGMENT, GRO; MULTICAST_TTL, _LOOP, _ALL, and IPv6's MULTICAST_HOPS,
    /// _LOOP, _ALL.
    static let datagram: [Entry] =
        [1, 100, 101, 102, 103, 104].map { .init(level: udp, name: $0) }
        + [33, 34, 49].map { .init(level: ip, name: $0) } + [18, 19, 29].map { .init(level: ipv6, name: $0) }
    /// PKTINFO, BROADCAST_ERROR, NO_ENOBUFS, LISTEN_ALL_NSID, CAP_ACK, EXT_ACK, GET_STRICT_CHK.
    static let netlink: [Entry] = [3, 4, 5, 8, 10, 11, 12].map { .init(level: 270, name: $0) }
}

/// The options that a kind of socket has on this kernel. A third of all fails for each kind, and a service has
/// thousands of sockets; so that is tried once.
struct KnownOptions {
    struct Kind: Hashable {
        var family: Int32
        var protocolNumber: Int32
        /// Which list of `SocketOption` was asked for.
        var count: Int
    }

    var early: [SocketOption.Entry]
    var late: [SocketOption.Entry]

    private static let table = Mutex<[Kind: KnownOptions]>([:])

    static func of(_ kind: Kind) -> KnownOptions? { table.withLock { $0[kind] } }
    static func remember(_ known: KnownOptions, for kind: Kind) {
        table.withLock { if $0[kind] == nil { $0[kind] = known } }
    }
}

extension SocketSettings {
    /// Reads every option of `socket` that this kernel and this family know.
    static func capture(
        _ socket: borrowing FileDescriptor, _ entries: [SocketOption.Entry], subject: String
    ) throws(ResourceError) -> SocketSettings {
        var settings = SocketSettings()
        var buffer = [UInt8](repeating: 0, count: 64)
        let kind = try step(subject, "its options cannot be read") { () throws(KernelError) in
            // SO_DOMAIN and SO_PROTOCOL.
            KnownOptions.Kind(
                family: try Socket.integer(socket, SocketOption.socket, 39),
                protocolNumber: try Socket.integer(socket, SocketOption.socket, 38), count: entries.count)
        }
        let known = KnownOptions.of(kind) ?? KnownOptions(early: SocketOption.early, late: entries)
        let found = KnownOptions(
            early: known.early.filter { settings.early.read($0, of: socket, &buffer) },
            late: known.late.filter { settings.late.read($0, of: socket, &buffer) })
        KnownOptions.remember(found, for: kind)
        try step(subject, "its options cannot be read") { () throws(KernelError) in
            let level = SocketOption.socket
            settings.reuseAddress = try Socket.integer(socket, level, SocketOption.reuseAddress)
            settings.sendBuffer = try Socket.integer(socket, level, SocketOption.sendBuffer)
            settings.receiveBuffer = try Socket.integer(socket, level, SocketOption.receiveBuffer)
            settings.bufferLock = (try? Socket.integer(socket, level, SocketOption.bufferLock)) ?? 0
        }
        return settings
    }

    /// Makes both buffers at least so large that `sending` and `receiving` bytes fit, bookkeeping included.
    func widen(_ socket: borrowing FileDescriptor, sending: Int, receiving: Int) throws(KernelError) {
        let level = SocketOption.socket
        if sending > 0 {
            let size = Int32(clamping: max(Int(sendBuffer), sending * 2 + 131_072))
            try Socket.setInteger(socket, level, SocketOption.sendBufferForce, size)
        }
        if receiving > 0 {
            let size = Int32(clamping: max(Int(receiveBuffer), receiving * 2 + 131_072))
            try Socket.setInteger(socket, level, SocketOption.receiveBufferForce, size)
        }
    }

    /// The sizes the service had; unless it set them itself the kernel goes on tuning them.
    func applyBuffers(to socket: borrowing FileDescriptor) throws(KernelError) {
        let level = SocketOption.socket
        // The kernel doubles what it is told, socket(7).
        try Socket.setInteger(socket, level, SocketOption.sendBufferForce, sendBuffer / 2)
        try Socket.setInteger(socket, level, SocketOption.receiveBufferForce, receiveBuffer / 2)
        try Socket.setInteger(socket, level, SocketOption.bufferLock, bufferLock)
    }

    func applyReuse(to socket: borrowing FileDescriptor) throws(KernelError) {
        try Socket.setInteger(socket, SocketOption.socket, SocketOption.reuseAddress, reuseAddress)
    }
}
