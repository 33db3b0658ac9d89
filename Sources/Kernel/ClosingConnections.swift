/// TCP connections that no descriptor refers to any more and whose last data or FIN the peer has not acknowledged,
/// proc_net_tcp(5): the kernel alone still works for them, and only on this host.
public enum ClosingConnections {
    /// How many there are with one of these local addresses, each 16 bytes, IPv4 mapped into IPv6.
    public static func count(of addresses: [[UInt8]]) throws(KernelError) -> Int {
        var count = 0
        for file in ["/proc/net/tcp", "/proc/net/tcp6"] where Files.exists(file) {
            count += Self.count(of: addresses, in: try Files.readText(file))
        }
        return count
    }

    static func count(of addresses: [[UInt8]], in table: String) -> Int {
        table.split(separator: "\n").dropFirst().count { line in
            let words = line.split(separator: " ")
            // TCP_FIN_WAIT1, TCP_LAST_ACK, TCP_CLOSING; what an application still holds has an inode number.
            guard words.count > 9, ["04", "09", "0B"].contains(words[3]), words[9] == "0" else { return false }
            let address = ListeningPorts.bytes(words[1].prefix { $0 != ":" })
            let mapped = address.count == 4 ? [UInt8](repeating: 0, count: 10) + [0xff, 0xff] + address : address
            return addresses.contains(mapped)
        }
    }
}
