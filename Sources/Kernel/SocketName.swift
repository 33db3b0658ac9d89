import CKernel
import Glibc

/// An address of a socket as the kernel has it, `struct sockaddr_in`, `sockaddr_in6`, `sockaddr_un` or `sockaddr_nl`.
public struct SocketName: Codable, Hashable, Sendable, CustomStringConvertible {
    /// The structure's bytes; two of them (the family) for the unnamed address of a unix socket.
    public var bytes: [UInt8]

    public init(bytes: [UInt8]) { self.bytes = bytes }

    /// An IPv4 address, four bytes in network order; ip(7).
    public static func ipv4(_ address: [UInt8], port: UInt16) -> SocketName {
        SocketName(bytes: native(UInt16(AF_INET)) + network(port) + address + [UInt8](repeating: 0, count: 8))
    }

    /// An IPv6 address, 16 bytes in network order; ipv6(7). `scope` is an interface index for link-local ones.
    public static func ipv6(_ address: [UInt8], port: UInt16, scope: UInt32 = 0) -> SocketName {
        SocketName(bytes: native(UInt16(AF_INET6)) + network(port) + [0, 0, 0, 0] + address + native(scope))
    }

    /// A 16-byte address, IPv4 ones mapped, for a socket of `family`.
    public static func ip(_ address: [UInt8], port: UInt16, family: Int32) -> SocketName {
        family == AF_INET ? .ipv4(Array(address.suffix(4)), port: port) : .ipv6(address, port: port)
    }

    /// A name of a unix socket: a path, or an abstract name whose first byte is 0; unix(7).
    public static func unix(_ name: [UInt8]) -> SocketName {
        SocketName(bytes: native(UInt16(AF_UNIX)) + name + (name.first == 0 || name.isEmpty ? [] : [0]))
    }

    /// AF_UNSPEC, with which connect(2) dissolves an association.
    public static let unspecified = SocketName(bytes: [UInt8](repeating: 0, count: 16))

    public var family: Int32 { bytes.count < 2 ? AF_UNSPEC : Int32(bytes[0]) | Int32(bytes[1]) << 8 }

    /// The port of an internet address, host order.
    public var port: UInt16 {
        get { isInternet ? UInt16(bytes[2]) << 8 | UInt16(bytes[3]) : 0 }
        set { if isInternet { bytes.replaceSubrange(2..<4, with: Self.network(newValue)) } }
    }

    public var isInternet: Bool { family == AF_INET && bytes.count >= 8 || family == AF_INET6 && bytes.count >= 24 }

    /// The internet address in 16 bytes, an IPv4 one mapped (RFC 4291, 2.5.5.2); empty for others.
    public var address: [UInt8] {
        guard isInternet else { return [] }
        return family == AF_INET ? Self.mappedPrefix + bytes[4..<8] : Array(bytes[8..<24])
    }

    /// The four bytes of an IPv4 or mapped address, else nil.
    public var ipv4Bytes: [UInt8]? {
        let address = self.address
        return address.count == 16 && address.starts(with: Self.mappedPrefix) ? Array(address.suffix(4)) : nil
    }

    /// The name of a unix socket without its final 0; empty when it has none.
    public var unixName: [UInt8] {
        guard family == AF_UNIX, bytes.count > 2 else { return [] }
        let name = bytes[2...]
        return name.first == 0 ? Array(name) : Array(name.prefix { $0 != 0 })
    }

    /// The path of a unix socket, nil when it has none or an abstract name.
    public var unixPath: String? {
        let name = unixName
        return name.isEmpty || name[0] == 0 ? nil : String(decoding: name, as: UTF8.self)
    }

    /// 0.0.0.0 or ::.
    public var isWildcard: Bool { Self.isWildcard(address) }
    /// 127.0.0.0/8 or ::1.
    public var isLoopback: Bool { Self.isLoopback(address) }

    /// Of a 16-byte address: 0.0.0.0 (bare or mapped) or ::.
    public static func isWildcard(_ address: [UInt8]) -> Bool {
        address.allSatisfy { $0 == 0 } || address == mappedPrefix + [0, 0, 0, 0]
    }

    /// Of a 16-byte address: 127.0.0.0/8 or ::1.
    public static func isLoopback(_ address: [UInt8]) -> Bool {
        address.starts(with: mappedPrefix + [127])
            || address == [UInt8](repeating: 0, count: 15) + [1]
    }

    public var description: String {
        if isInternet { return Self.text(address) + ":\(port)" }
        let name = unixName
        if name.isEmpty { return "unnamed" }
        return (name[0] == 0 ? "@" : "") + String(decoding: name.drop { $0 == 0 }, as: UTF8.self)
    }

    /// A 16-byte address as text; IPv6 ones in brackets.
    public static func text(_ address: [UInt8]) -> String {
        guard address.count == 16 else { return "?" }
        if address.starts(with: mappedPrefix) {
            return address.suffix(4).map(String.init).joined(separator: ".")
        }
        let groups = stride(from: 0, to: 16, by: 2).map {
            String(UInt16(address[$0]) << 8 | UInt16(address[$0 + 1]), radix: 16)
        }
        return "[" + groups.joined(separator: ":") + "]"
    }

    static let mappedPrefix: [UInt8] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]

    private static func native<Value: FixedWidthInteger>(_ value: Value) -> [UInt8] {
        withUnsafeBytes(of: value) { Array($0) }
    }
    private static func network(_ value: UInt16) -> [UInt8] { native(value.bigEndian) }
}
