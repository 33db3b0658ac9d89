import Glibc

/// Internet addresses and their text, inet_pton(3) and inet_ntop(3).
public enum AddressText {
    /// The 4 (IPv4) or 16 (IPv6) bytes of a numeric address in network order; nil when `text` is neither.
    public static func bytes(_ text: String) -> [UInt8]? {
        parse(text, AF_INET, 4) ?? parse(text, AF_INET6, 16)
    }

    /// The usual text of 4 or 16 bytes in network order (RFC 5952 for IPv6); empty for another count.
    public static func text(_ bytes: [UInt8]) -> String {
        guard bytes.count == 4 || bytes.count == 16 else { return "" }
        let family = bytes.count == 4 ? AF_INET : AF_INET6
        var buffer = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
        let done = inet_ntop(family, bytes, &buffer, socklen_t(buffer.count)) != nil
        return done ? String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self) : ""
    }

    private static func parse(_ text: String, _ family: Int32, _ count: Int) -> [UInt8]? {
        var bytes = [UInt8](repeating: 0, count: count)
        return inet_pton(family, text, &bytes) == 1 ? bytes : nil
    }
}
