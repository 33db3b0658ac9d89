import Kernel

/// What one source said to one question.
public struct NameFinding: Equatable, Sendable, CustomStringConvertible {
    public enum Outcome: Equatable, Sendable {
        /// Everything expected is among the records.
        case match
        /// There are records, but not all that were expected.
        case mismatch(found: [String])
        /// NXDOMAIN: the name does not exist.
        case noSuchName
        /// The name exists without records of the type.
        case noData
        /// The source could not answer: SERVFAIL, REFUSED, unreachable, malformed.
        case serverFailure(String)
        case timeout
    }

    public enum Verdict: Equatable, Sendable {
        case passed
        /// Nothing definite was learned.
        case warned
        case failed
    }

    /// The name asked for.
    public let name: String
    /// `A`, `AAAA` or `PTR`.
    public let type: String
    /// A name server's address and port, or `systemd-resolved`.
    public let source: String
    /// Addresses, or the service's name for PTR.
    public let expected: [String]
    public let outcome: Outcome

    /// A definite contradiction fails; silence and broken servers warn, as they say nothing about the name.
    public var verdict: Verdict {
        switch outcome {
        case .match: .passed
        case .mismatch, .noSuchName, .noData: .failed
        case .serverFailure, .timeout: .warned
        }
    }

    public var description: String {
        let wanted = expected.joined(separator: ", ")
        let text: String
        switch outcome {
        case .match: text = "holds \(wanted)"
        case .mismatch(let found): text = "is \(found.joined(separator: ", ")), expected \(wanted)"
        case .noSuchName: text = "no such name, expected \(wanted)"
        case .noData: text = "no such records, expected \(wanted)"
        case .serverFailure(let why): text = "could not be answered: \(why)"
        case .timeout: text = "no answer in time"
        }
        return "\(name) \(type) (\(source)): \(text)"
    }
}

/// What the check cannot even ask.
public enum NameCheckError: Error, Equatable, Sendable, CustomStringConvertible {
    case badName(String)
    case badAddress(String)
    case resolverConfiguration(KernelError)

    public var description: String {
        switch self {
        case .badName(let name): "`\(name)` is not a domain name"
        case .badAddress(let address): "`\(address)` is not a numeric IPv4 or IPv6 address"
        case .resolverConfiguration(let error): "cannot tell which name servers to ask: \(error)"
        }
    }
}

/// The records of one question, or why there are none.
enum RecordAnswer: Equatable, Sendable {
    case records([ResourceRecord.Content])
    case noSuchName
    case noData
    case serverFailure(String)
    case timeout
}

/// Something that answers DNS questions.
protocol RecordSource {
    var label: String { get }
    func ask(_ name: DomainName, _ type: RecordType, deadline: Deadline) -> RecordAnswer
}

/// Compares DNS with the virtual addresses of a service.
///
/// getaddrinfo(3) is never used: it reads the hosts file, so it would pass on this host what clients do not see.
public enum NameChecker {
    /// Asks systemd-resolved where it runs, past its cache and its own zones, else each name server of `resolvConf`:
    /// the A and AAAA records of `name` must contain `addresses`, and each address's PTR must be `name`.
    public static func check(
        name: String, addresses: [String], resolvConf: String = "/etc/resolv.conf", deadline: Deadline
    ) throws(NameCheckError) -> [NameFinding] {
        if let resolved = ResolvedSource.connect() {
            return try check(name: name, addresses: addresses, sources: [resolved], deadline: deadline)
        }
        return try check(
            name: name, addresses: addresses, servers: try servers(resolvConf: resolvConf), deadline: deadline)
    }

    /// Asks each of `servers`.
    public static func check(
        name: String, addresses: [String], servers: [SocketAddress], deadline: Deadline
    ) throws(NameCheckError) -> [NameFinding] {
        try check(
            name: name, addresses: addresses, sources: servers.map { ServerSource(server: $0) }, deadline: deadline)
    }

    /// The `nameserver` lines of resolv.conf(5); the local host when there is none.
    public static func servers(resolvConf: String) throws(NameCheckError) -> [SocketAddress] {
        let text: String
        do { text = try Files.readText(resolvConf) } catch { throw .resolverConfiguration(error) }
        let found = text.split(separator: "\n").compactMap { line -> SocketAddress? in
            let words = line.split(whereSeparator: { $0 == " " || $0 == "\t" })
            guard words.count >= 2, words[0] == "nameserver" else { return nil }
            return SocketAddress(String(words[1]), port: 53)
        }
        if !found.isEmpty { return found }
        return SocketAddress("127.0.0.1", port: 53).map { [$0] } ?? []
    }

    static func check(
        name: String, addresses: [String], sources: [any RecordSource], deadline: Deadline
    ) throws(NameCheckError) -> [NameFinding] {
        guard let domain = DomainName(name) else { throw .badName(name) }
        var parsed: [SocketAddress] = []
        for address in addresses {
            // As annotated, an address may carry its prefix length.
            let plain = String(address.split(separator: "/").first ?? "")
            guard let one = SocketAddress(plain, port: 0) else { throw .badAddress(address) }
            parsed.append(one)
        }
        var findings: [NameFinding] = []
        for (index, source) in sources.enumerated() {
            // Each source gets its share of the time left, so a dead first server does not silence the second.
            let share = Self.share(of: deadline, among: sources.count - index)
            for (type, family) in [(RecordType.a, parsed.filter(\.isIPv4)), (.aaaa, parsed.filter { !$0.isIPv4 })]
            where !family.isEmpty {
                findings.append(forward(domain, type, family, source, share))
            }
            for address in parsed { findings.append(reverse(domain, address, source, share)) }
        }
        return findings
    }

    private static func share(of deadline: Deadline, among count: Int) -> Deadline {
        if deadline == .never { return .after(milliseconds: 10_000) }
        let now = Clock.monotonic
        return Deadline(monotonicNanoseconds: now + max(0, deadline.nanoseconds - now) / Int64(max(count, 1)))
    }

    private static func forward(
        _ name: DomainName, _ type: RecordType, _ addresses: [SocketAddress], _ source: any RecordSource,
        _ deadline: Deadline
    ) -> NameFinding {
        let answer = source.ask(name, type, deadline: deadline)
        let wanted = Set(addresses.map { ResourceRecord.Content.address($0.bytes) })
        return NameFinding(
            name: "\(name)", type: type.label, source: source.label, expected: addresses.map(\.host),
            outcome: outcome(answer, wanted))
    }

    private static func reverse(
        _ name: DomainName, _ address: SocketAddress, _ source: any RecordSource, _ deadline: Deadline
    ) -> NameFinding {
        let question = DomainName.reverse(of: address.bytes)
        let answer = source.ask(question, .ptr, deadline: deadline)
        return NameFinding(
            name: address.host, type: RecordType.ptr.label, source: source.label, expected: ["\(name)"],
            outcome: outcome(answer, [.name(name)]))
    }

    private static func outcome(
        _ answer: RecordAnswer, _ wanted: Set<ResourceRecord.Content>
    ) -> NameFinding.Outcome {
        switch answer {
        case .records(let found):
            return wanted.isSubset(of: found) ? .match : .mismatch(found: found.map(text).sorted())
        case .noSuchName: return .noSuchName
        case .noData: return .noData
        case .serverFailure(let why): return .serverFailure(why)
        case .timeout: return .timeout
        }
    }

    private static func text(_ content: ResourceRecord.Content) -> String {
        switch content {
        case .address(let bytes): SocketAddress(bytes: bytes, port: 0)?.host ?? "?"
        case .name(let name): "\(name)"
        case .other: "?"
        }
    }
}
