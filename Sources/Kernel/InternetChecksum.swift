/// The check sum of IP, TCP, UDP and ICMPv6, RFC 1071.
public enum InternetChecksum {
    /// Of the bytes, as a number whose big-endian form goes into the header; an odd last byte counts as if a zero
    /// followed it.
    public static func of(_ bytes: [UInt8]) -> UInt16 {
        var sum: UInt64 = 0
        for index in stride(from: 0, to: bytes.count - 1, by: 2) {
            sum += UInt64(bytes[index]) << 8 | UInt64(bytes[index + 1])
        }
        if bytes.count % 2 == 1, let last = bytes.last { sum += UInt64(last) << 8 }
        while sum >> 16 != 0 { sum = sum & 0xffff + sum >> 16 }
        return ~UInt16(sum)
    }
}
