import CKernel
import Glibc

/// An address of a service, IPv4 or IPv6, with the length of the subnet's prefix that the annotation names.
public struct VirtualAddress: Hashable, Sendable, CustomStringConvertible {
    public enum Family: Sendable {
        case ipv4, ipv6
        /// AF_INET or AF_INET6.
        public var number: Int32 { self == .ipv4 ? AF_INET : AF_INET6 }
        /// Bits of an address: 32 or 128.
        public var bits: Int { self == .ipv4 ? 32 : 128 }
    }

    public let family: Family
    /// 4 or 16 bytes in network order.
    public let bytes: [UInt8]
    /// Bits of the subnet the address belongs to; chooses the interface, never the length it is added with.
    public let prefix: Int

    /// nil unless there are 4 or 16 bytes and the prefix fits; without a prefix the address stands alone.
    public init?(bytes: [UInt8], prefix: Int? = nil) {
        guard bytes.count == 4 || bytes.count == 16 else { return nil }
        let family: Family = bytes.count == 4 ? .ipv4 : .ipv6
        guard (0...family.bits).contains(prefix ?? family.bits) else { return nil }
        self.family = family
        self.bytes = bytes
        self.prefix = prefix ?? family.bits
    }

    /// `10.10.10.11/24`, `fd00::11/64`, or either without a prefix, as inet_pton(3) reads it.
    public init?(text: String) {
        let parts = text.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
        var prefix: Int?
        if parts.count == 2 {
            guard parts[1].utf8.allSatisfy({ (48...57).contains($0) }), let number = Int(parts[1]) else { return nil }
            prefix = number
        }
        let family = parts[0].contains(":") ? AF_INET6 : AF_INET
        var bytes = [UInt8](repeating: 0, count: family == AF_INET ? 4 : 16)
        guard inet_pton(family, String(parts[0]), &bytes) == 1 else { return nil }
        self.init(bytes: bytes, prefix: prefix)
    }

    /// The address without its prefix, as inet_ntop(3) prints it.
    public var text: String {
        var buffer = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
        guard inet_ntop(family.number, bytes, &buffer, socklen_t(buffer.count)) != nil else { return "" }
        return String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    public var description: String { "\(text)/\(prefix)" }

    /// Sixteen bytes for either family, IPv4 as ::ffff:a.b.c.d.
    public var mapped: [UInt8] { family == .ipv6 ? bytes : [UInt8](repeating: 0, count: 10) + [0xff, 0xff] + bytes }

    /// Whether both are of one family and the first `bits` bits are the same.
    func sharesPrefix(with other: [UInt8], bits: Int) -> Bool {
        guard other.count == bytes.count else { return false }
        for index in 0..<bytes.count {
            let remaining = min(8, bits - index * 8)
            if remaining <= 0 { return true }
            let mask = UInt8(truncatingIfNeeded: 0xff00 >> remaining)
            if (bytes[index] ^ other[index]) & mask != 0 { return false }
        }
        return true
    }
}
