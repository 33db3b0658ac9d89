/// TCP listeners of this network namespace, proc_net_tcp(5).
public enum ListeningPorts {
    /// One listener; the address is 4 or 16 bytes in network order.
    public struct Listener: Hashable, Sendable {
        public let address: [UInt8]
        public let port: UInt16
        public var isWildcard: Bool { address.allSatisfy { $0 == 0 } }
    }

    public static func read() throws(KernelError) -> [Listener] {
        var found: [Listener] = []
        for file in ["/proc/net/tcp", "/proc/net/tcp6"] where Files.exists(file) {
            for line in try Files.readText(file).split(separator: "\n").dropFirst() {
                let words = line.split(separator: " ")
                // 0A is TCP_LISTEN.
                guard words.count > 3, words[3] == "0A" else { continue }
                let parts = words[1].split(separator: ":")
                guard parts.count == 2, let port = UInt16(parts[1], radix: 16) else { continue }
                found.append(Listener(address: bytes(parts[0]), port: port))
            }
        }
        return found
    }

    /// The kernel prints each 32-bit word of an address as a number of this machine's byte order.
    static func bytes(_ text: Substring) -> [UInt8] {
        var result: [UInt8] = []
        var rest = text
        while let word = UInt32(rest.prefix(8), radix: 16), rest.count >= 8 {
            withUnsafeBytes(of: word) { result.append(contentsOf: $0) }
            rest = rest.dropFirst(8)
        }
        return result
    }
}
