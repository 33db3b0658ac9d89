import Kernel

/// An address that belongs to a service and moves with it.
public struct VirtualAddress: Hashable, Sendable, CustomStringConvertible {
    /// The protocol the address belongs to.
    public enum Family: Sendable { case ipv4, ipv6 }

    public let family: Family
    /// 4 or 16 bytes in network order.
    public let bytes: [UInt8]
    /// Length of the subnet's prefix in bits; it selects the interface, the address itself is added as /32 or /128.
    public let prefix: Int

    /// The address without its prefix, `10.10.10.11`.
    public var address: String { AddressText.text(bytes) }
    /// `10.10.10.11/24`.
    public var description: String { "\(address)/\(prefix)" }

    /// Why a text is no virtual address, and what would be.
    public struct Invalid: Error, Equatable, Sendable {
        public let why: String
        public let allowed: String
    }

    /// Reads `address/prefix` and refuses what cannot be one host's address on a subnet.
    public init(_ text: String) throws(Invalid) {
        let example = "an IPv4 or IPv6 address with its prefix, as 10.10.10.11/24 or 2001:db8::11/64"
        let parts = text.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
        guard let bytes = AddressText.bytes(String(parts[0])) else {
            throw Invalid(why: "not a numeric address", allowed: example)
        }
        guard parts.count == 2, !parts[1].isEmpty else { throw Invalid(why: "no prefix length", allowed: example) }
        let bits = bytes.count * 8
        guard parts[1].allSatisfy({ $0.isASCII && $0.isNumber }), let prefix = Int(parts[1]), 1...bits ~= prefix else {
            throw Invalid(why: "prefix length out of range", allowed: "/1 to /\(bits) for this address")
        }
        self.bytes = bytes
        self.prefix = prefix
        family = bytes.count == 4 ? .ipv4 : .ipv6
        let kind = family == .ipv4 ? VirtualAddress.unusable4(bytes) : VirtualAddress.unusable6(bytes)
        if let kind { throw Invalid(why: kind, allowed: "a unicast address that other hosts can reach") }
        try checkHostPart(bits)
    }

    /// RFC 6890 blocks that never name one host of a subnet.
    private static func unusable4(_ bytes: [UInt8]) -> String? {
        switch bytes[0] {
        case 0: "unspecified address"
        case 127: "loopback address"
        case 224...239: "multicast address"
        case 240...255: bytes.allSatisfy { $0 == 255 } ? "broadcast address" : "reserved address"
        default: nil
        }
    }

    private static func unusable6(_ bytes: [UInt8]) -> String? {
        let head = bytes.dropLast()
        if head.allSatisfy({ $0 == 0 }) && bytes[15] <= 1 {
            return bytes[15] == 0 ? "unspecified address" : "loopback address"
        }
        if bytes[0] == 0xff { return "multicast address" }
        // A link-local address means nothing without the client's own interface (RFC 4007).
        if bytes[0] == 0xfe && bytes[1] & 0xc0 == 0x80 { return "link-local address" }
        let mapped = bytes.prefix(10).allSatisfy { $0 == 0 } && bytes[10] == 0xff && bytes[11] == 0xff
        return mapped ? "IPv4-mapped address" : nil
    }

    /// All host bits 0 is the subnet itself (IPv6: its routers' anycast address, RFC 4291), all 1 is IPv4's broadcast.
    /// Subnets of one or two addresses have neither (RFC 3021, RFC 6164).
    private func checkHostPart(_ bits: Int) throws(Invalid) {
        guard bits - prefix >= 2 else { return }
        let host = (prefix..<bits).map { bytes[$0 / 8] >> (7 - UInt8($0 % 8)) & 1 }
        let allowed = "a host's address within the subnet"
        if host.allSatisfy({ $0 == 0 }) {
            let why = family == .ipv4 ? "network address of its subnet" : "subnet-router anycast address of its subnet"
            throw Invalid(why: why, allowed: allowed)
        }
        if family == .ipv4, host.allSatisfy({ $0 == 1 }) {
            throw Invalid(why: "broadcast address of its subnet", allowed: allowed)
        }
    }
}
