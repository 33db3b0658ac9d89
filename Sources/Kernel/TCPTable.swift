/// The TCP sockets of this network namespace, proc_net_tcp(5).
public enum TCPTable {
    struct Row {
        /// 4 or 16 bytes in network order.
        let address: [UInt8]
        let port: UInt16
        /// A number of include/net/tcp_states.h.
        let state: UInt8
        /// 0 when no descriptor refers to the socket, yet or any more.
        let inode: UInt64
        let remoteAddress: [UInt8]
        let remotePort: UInt16
        /// Received and not read, bytes.
        let unread: UInt32
    }

    /// A listener; the address is 4 or 16 bytes in network order.
    public struct Listener: Hashable, Sendable {
        public let address: [UInt8]
        public let port: UInt16
        public var isWildcard: Bool { address.allSatisfy { $0 == 0 } }
    }

    /// A connection that nobody has accepted yet, or that its program has closed. Names are of AF_INET6, IPv4 mapped.
    public struct Unaccepted: Sendable {
        public let local: SocketName
        public let remote: SocketName
        /// What the peer has sent, its FIN counted as one byte.
        public let unread: UInt32
    }

    public static func unaccepted() throws(KernelError) -> [Unaccepted] {
        try rows(in: [1, 8]).filter { $0.inode == 0 }.map {  // TCP_ESTABLISHED, TCP_CLOSE_WAIT
            Unaccepted(
                local: .ip(mapped($0.address), port: $0.port, family: 10),
                remote: .ip(mapped($0.remoteAddress), port: $0.remotePort, family: 10), unread: $0.unread)
        }
    }

    private static func mapped(_ address: [UInt8]) -> [UInt8] {
        address.count == 4 ? [UInt8](repeating: 0, count: 10) + [0xff, 0xff] + address : address
    }

    public static func listeners() throws(KernelError) -> [Listener] {
        try rows(in: [10]).map { Listener(address: $0.address, port: $0.port) }  // TCP_LISTEN
    }

    /// How many connections with one of these local addresses (16 bytes each, IPv4 mapped into IPv6) the service has
    /// closed whose last data or FIN the peer has not acknowledged: the kernel alone still works for them, and only on
    /// this host.
    public static func closing(of addresses: [[UInt8]]) throws(KernelError) -> Int {
        // Going through the table takes milliseconds with thousands of connections, and this is asked while a service
        // is frozen: nearly always no socket of the whole kernel is closed and at work.
        if orphans(in: try Files.readText("/proc/net/sockstat")) == 0 { return 0 }
        return closing(of: addresses, among: try rows(in: closingStates))
    }

    /// `TCP: inuse 5 orphan 0 tw 7 …`, sockstat_seq_show() in net/ipv4/proc.c: the exact sum over all namespaces.
    static func orphans(in text: String) -> Int? {
        for line in text.split(separator: "\n") where line.hasPrefix("TCP:") {
            let words = line.split(separator: " ")
            if let key = words.firstIndex(of: "orphan"), key + 1 < words.count { return Int(words[key + 1]) }
        }
        return nil
    }

    static func closing(of addresses: [[UInt8]], among rows: [Row]) -> Int {
        rows.count { row in
            row.inode == 0 && closingStates.contains(row.state) && addresses.contains(mapped(row.address))
        }
    }

    /// TCP_FIN_WAIT1, TCP_LAST_ACK, TCP_CLOSING.
    static let closingStates: Set<UInt8> = [4, 9, 11]

    private static func rows(in states: Set<UInt8>) throws(KernelError) -> [Row] {
        var found: [Row] = []
        for file in ["/proc/net/tcp", "/proc/net/tcp6"] where Files.exists(file) {
            found += rows(of: try Files.readText(file), in: states)
        }
        return found
    }

    /// The rows of one table's text that are in one of `states`.
    static func rows(of text: String, in states: Set<UInt8>) -> [Row] {
        text.split(separator: "\n").dropFirst().compactMap { line in
            let words = line.split(separator: " ", maxSplits: 10)
            guard words.count > 9, let state = UInt8(words[3], radix: 16), states.contains(state) else { return nil }
            let local = words[1].split(separator: ":")
            let remote = words[2].split(separator: ":")
            let queues = words[4].split(separator: ":")
            guard local.count == 2, let port = UInt16(local[1], radix: 16), let inode = UInt64(words[9]),
                remote.count == 2, let remotePort = UInt16(remote[1], radix: 16),
                queues.count == 2, let unread = UInt32(queues[1], radix: 16)
            else { return nil }
            return Row(
                address: bytes(local[0]), port: port, state: state, inode: inode, remoteAddress: bytes(remote[0]),
                remotePort: remotePort, unread: unread)
        }
    }

    /// The kernel prints each 32-bit word of an address as a number of this machine's byte order.
    private static func bytes(_ text: Substring) -> [UInt8] {
        var result: [UInt8] = []
        var rest = text
        while let word = UInt32(rest.prefix(8), radix: 16), rest.count >= 8 {
            withUnsafeBytes(of: word) { result.append(contentsOf: $0) }
            rest = rest.dropFirst(8)
        }
        return result
    }
}
