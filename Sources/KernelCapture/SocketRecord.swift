/// What the capture module reads of one socket, without touching it.
public struct SocketRecord: Codable, Sendable {
    /// AF_…, SOCK_…, IPPROTO_….
    public var family: UInt16 = 0
    public var type: UInt16 = 0
    public var protocolNumber: UInt16 = 0
    /// `sk_state`: TCP_ESTABLISHED = 1 …; for unix sockets the same numbers.
    public var state: UInt8 = 0
    /// RCV_SHUTDOWN = 1 | SEND_SHUTDOWN = 2.
    public var shutdown: UInt8 = 0
    public var inode: UInt64 = 0
    /// Inet: 16-byte addresses (IPv4 mapped), ports in host order.
    public var localAddress: [UInt8] = []
    public var remoteAddress: [UInt8] = []
    public var localPort: UInt16 = 0
    public var remotePort: UInt16 = 0
    /// TCP: `rx_opt.ts_recent` and seconds since it was taken, which TCP_REPAIR does not tell.
    public var timestampRecent: UInt32 = 0
    /// TCP listener: connections waiting in the accept queue, and half-open ones.
    public var acceptQueue: UInt32 = 0
    public var halfOpen: UInt32 = 0
    /// Unix: inode of the peer (0: none), the bound name of the socket and of its peer (first byte 0: abstract).
    public var peerInode: UInt64 = 0
    public var unixName: [UInt8] = []
    public var peerName: [UInt8] = []
    public var isMPTCP = false
    /// An upper layer protocol (kTLS) is attached.
    public var hasUpperLayer = false
    /// Keys of TCP-MD5 (RFC 2385) or TCP-AO (RFC 5925) are installed.
    public var isSigned = false
    /// A program decides what it receives: SO_ATTACH_FILTER, SO_ATTACH_BPF.
    public var hasFilter = false
    /// A program spreads what comes over the sockets of its port: SO_ATTACH_REUSEPORT_CBPF, _EBPF.
    public var hasSelector = false
    /// Inet: the first multicast group that the socket has joined, 16 bytes (IPv4 mapped); empty when none.
    public var multicastGroup: [UInt8] = []
    public init() {}
}
