import CKernel
import Glibc

/// Record types of RFC 1035 and RFC 3596 that the check needs.
enum RecordType: UInt16, Sendable {
    case a = 1
    case cname = 5
    case ptr = 12
    case aaaa = 28

    var label: String {
        switch self {
        case .a: "A"
        case .cname: "CNAME"
        case .ptr: "PTR"
        case .aaaa: "AAAA"
        }
    }
}

/// Why bytes are not a DNS message.
enum DNSFault: Error, Equatable { case truncatedMessage, badName, badRecord, notAResponse }

/// A domain name as labels, lower case: names compare without case (RFC 4343).
struct DomainName: Hashable, Sendable, CustomStringConvertible {
    let labels: [[UInt8]]

    init(labels: [[UInt8]]) { self.labels = labels.map { $0.map(Self.lower) } }

    /// Parses presentation form without escapes; a dot at the end is allowed. Nil when RFC 1035's sizes are broken.
    init?(_ text: String) {
        var bytes = Array(text.utf8)
        if bytes.last == UInt8(ascii: ".") { bytes.removeLast() }
        guard !bytes.isEmpty, bytes.count <= 253 else { return nil }
        let labels = bytes.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false).map(Array.init)
        guard labels.allSatisfy({ (1...63).contains($0.count) }) else { return nil }
        guard bytes.allSatisfy({ $0 > 0x20 && $0 < 0x7f && $0 != UInt8(ascii: "\\") }) else { return nil }
        self.init(labels: labels)
    }

    /// The name whose PTR record belongs to an address of 4 or 16 bytes: RFC 1035 section 3.5, RFC 3596 section 2.5.
    static func reverse(of address: [UInt8]) -> DomainName {
        if address.count == 4 {
            let labels = address.reversed().map { Array(String($0).utf8) }
            return DomainName(labels: labels + [Array("in-addr".utf8), Array("arpa".utf8)])
        }
        let nibbles = address.reversed().flatMap { [$0 & 15, $0 >> 4] }.map { Array(String($0, radix: 16).utf8) }
        return DomainName(labels: nibbles + [Array("ip6".utf8), Array("arpa".utf8)])
    }

    var wire: [UInt8] { labels.flatMap { [UInt8($0.count)] + $0 } + [0] }

    /// Without the dot at the end; bytes that would mislead are escaped as in RFC 1035 section 5.1.
    var description: String {
        if labels.isEmpty { return "." }
        return labels.map { label in
            label.map { byte -> String in
                if byte == UInt8(ascii: ".") || byte == UInt8(ascii: "\\") {
                    return "\\" + String(UnicodeScalar(byte))
                }
                if byte > 0x20 && byte < 0x7f { return String(UnicodeScalar(byte)) }
                let digits = String(byte)
                return "\\" + String(repeating: "0", count: 3 - digits.count) + digits
            }.joined()
        }.joined(separator: ".")
    }

    private static func lower(_ byte: UInt8) -> UInt8 {
        (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(byte) ? byte | 0x20 : byte
    }
}

/// One resource record, its data understood where the check needs it.
struct ResourceRecord: Equatable, Sendable {
    enum Content: Hashable, Sendable {
        case address([UInt8])
        case name(DomainName)
        case other
    }

    let owner: DomainName
    let type: UInt16
    let content: Content
}

/// A DNS response, RFC 1035 section 4. Pure: bytes in, values out; any bytes are safe.
struct DNSMessage: Equatable, Sendable {
    let id: UInt16
    let isTruncated: Bool
    /// 0 no error, 2 SERVFAIL, 3 NXDOMAIN, 5 REFUSED.
    let responseCode: UInt8
    let question: DomainName?
    let questionType: UInt16?
    let answers: [ResourceRecord]

    /// A recursive query for one question of class IN.
    static func query(id: UInt16, name: DomainName, type: RecordType) -> [UInt8] {
        // Flags: RD. One question.
        [UInt8(id >> 8), UInt8(id & 255), 1, 0, 0, 1, 0, 0, 0, 0, 0, 0] + name.wire + [0, UInt8(type.rawValue), 0, 1]
    }

    init(_ bytes: [UInt8]) throws(DNSFault) {
        var cursor = DNSCursor(bytes)
        id = try cursor.word()
        let flags = try cursor.word()
        guard flags & 0x8000 != 0, flags >> 11 & 15 == 0 else { throw .notAResponse }
        isTruncated = flags & 0x0200 != 0
        responseCode = UInt8(flags & 15)
        let questions = try cursor.word()
        let count = try cursor.word()
        _ = try cursor.word()
        _ = try cursor.word()
        guard questions <= 1 else { throw .notAResponse }
        if questions == 1 {
            question = try cursor.name()
            questionType = try cursor.word()
            _ = try cursor.word()
        } else {
            question = nil
            questionType = nil
        }
        var answers: [ResourceRecord] = []
        // A truncated message may end anywhere; it is asked for again by TCP.
        if !isTruncated {
            for _ in 0..<count { if let record = try cursor.record() { answers.append(record) } }
        }
        self.answers = answers
    }

    /// The records of `type` that answer for `name`, aliases (CNAME) followed.
    func records(of type: RecordType, for name: DomainName) -> [ResourceRecord.Content] {
        Self.follow(answers, of: type, for: name)
    }

    static func follow(
        _ answers: [ResourceRecord], of type: RecordType, for name: DomainName
    ) -> [ResourceRecord.Content] {
        var owner = name
        // No chain is longer than the answers; a ring ends with them.
        for _ in 0...answers.count {
            let found = answers.filter { $0.owner == owner && $0.type == type.rawValue }
            if !found.isEmpty { return found.map(\.content) }
            let alias = answers.first { $0.owner == owner && $0.type == RecordType.cname.rawValue }
            guard let alias, case .name(let target) = alias.content else { return [] }
            owner = target
        }
        return []
    }
}

/// Reads big-endian fields and compressed names.
struct DNSCursor {
    private let bytes: [UInt8]
    private var at = 0

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    mutating func byte() throws(DNSFault) -> UInt8 {
        guard at < bytes.count else { throw .truncatedMessage }
        defer { at += 1 }
        return bytes[at]
    }

    mutating func word() throws(DNSFault) -> UInt16 { UInt16(try byte()) << 8 | UInt16(try byte()) }

    /// A name, RFC 1035 section 4.1.4. Each pointer must point before the part it stands in, and a name has at most
    /// 255 bytes, so no message makes this run long.
    mutating func name() throws(DNSFault) -> DomainName {
        var labels: [[UInt8]] = []
        var size = 1
        var position = at
        var partStart = at
        var after: Int?
        while true {
            guard position < bytes.count else { throw .truncatedMessage }
            let length = Int(bytes[position])
            switch length >> 6 {
            case 0 where length == 0:
                at = after ?? position + 1
                return DomainName(labels: labels)
            case 0:
                size += length + 1
                guard size <= 255 else { throw .badName }
                guard position + 1 + length <= bytes.count else { throw .truncatedMessage }
                labels.append(Array(bytes[position + 1..<position + 1 + length]))
                position += 1 + length
            case 3:
                guard position + 1 < bytes.count else { throw .truncatedMessage }
                let target = (length & 63) << 8 | Int(bytes[position + 1])
                guard target < partStart else { throw .badName }
                after = after ?? position + 2
                position = target
                partStart = target
            default:
                throw .badName
            }
        }
    }

    /// A record; nil for one of another class than IN.
    mutating func record() throws(DNSFault) -> ResourceRecord? {
        let owner = try name()
        let type = try word()
        let recordClass = try word()
        _ = try word()
        _ = try word()
        let end = Int(try word()) + at
        guard end <= bytes.count else { throw .truncatedMessage }
        let content: ResourceRecord.Content
        switch RecordType(rawValue: type) {
        case .a, .aaaa:
            guard end - at == (type == RecordType.a.rawValue ? 4 : 16) else { throw .badRecord }
            content = .address(Array(bytes[at..<end]))
        case .cname, .ptr:
            content = .name(try name())
            guard at == end else { throw .badRecord }
        case nil:
            content = .other
        }
        at = end
        return recordClass == 1 ? ResourceRecord(owner: owner, type: type, content: content) : nil
    }
}
