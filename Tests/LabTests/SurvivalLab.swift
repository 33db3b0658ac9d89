import Glibc
import Lab
import Testing

/// Gives a suite one lab for all its tests: hosts a and b with the release build, and client c.
struct SurvivalLab: SuiteTrait, TestScoping {
    @TaskLocal static var current: Lab?
    let suffix: String
    let clients: [String]

    func provideScope(
        for test: Test, testCase: Test.Case?, performing function: @Sendable () async throws -> Void
    ) async throws {
        guard geteuid() == 0 else { return try await function() }
        let lab = try Lab.up(
            hosts: ["a", "b"], clients: clients, name: "survive-\(getpid())-\(suffix)", product: .release)
        defer { lab.down() }
        for host in lab.members where host.hasSystemd {
            let state = try host.run("systemctl", "is-active", "mobilityd", allowFailure: true).trimmed
            guard state == "active" else {
                throw LabError("mobilityd is \(state) on \(host.name):\n\(try host.journal("mobilityd"))")
            }
        }
        try await Self.$current.withValue(lab) { try await function() }
    }

    /// The suite's lab; nil, and a line that says why, where there is none.
    static func lab(_ test: String = #function) -> Lab? {
        if let current { return current }
        print("\(test) skipped, because a lab needs root")
        return nil
    }
}

extension Trait where Self == SurvivalLab {
    /// One lab of its own for the suite; `suffix` keeps names apart.
    static func survivalLab(_ suffix: String, clients: [String] = ["c"]) -> Self {
        SurvivalLab(suffix: suffix, clients: clients)
    }
}

/// What the kernel of a client counted since `init`: none of it may grow in a move.
struct ClientCounters {
    static let names = ["Tcp.EstabResets", "Tcp.OutRsts", "Tcp.AttemptFails", "TcpExt.TCPTimeouts"]

    let client: LabHost
    private let before: [String: Int]

    init(_ client: LabHost) throws {
        self.client = client
        before = try client.counters()
    }

    /// Resets received and sent, and retransmission timeouts, that came since.
    func expectNone(besides: String? = nil, sourceLocation: SourceLocation = #_sourceLocation) throws {
        let after = try client.counters()
        for name in Self.names where name != besides {
            let grown = (after[name] ?? 0) - (before[name] ?? 0)
            #expect(grown == 0, "\(name) grew by \(grown)", sourceLocation: sourceLocation)
        }
    }
}

/// Checks that the unit ended cleanly on the host that it left.
func expectLeft(_ unit: String, _ host: LabHost, sourceLocation: SourceLocation = #_sourceLocation) throws {
    let state = try ["ActiveState", "SubState", "Result"].map { try host.property($0, of: unit) }
    #expect(state == ["inactive", "dead", "success"], "\(unit) on \(host.name)", sourceLocation: sourceLocation)
}

/// Checks that the unit runs on a host as the same process, never exec'd.
func expectArrived(
    _ unit: String, _ original: MasterProcess, _ host: LabHost, sourceLocation: SourceLocation = #_sourceLocation
) throws {
    let state = try ["ActiveState", "SubState", "Result"].map { try host.property($0, of: unit) }
    #expect(state == ["active", "running", "success"], "\(unit) on \(host.name)", sourceLocation: sourceLocation)
    let process = try MasterProcess(of: unit, on: host)
    #expect(process.pid == original.pid, sourceLocation: sourceLocation)
    #expect(process.random == original.random, sourceLocation: sourceLocation)
}

extension LabProcess {
    /// Asks labload for a window (SIGUSR1) or for its end (SIGTERM); returns the numbers of its line, rounded up.
    func loadReport(_ event: String) throws -> [String: Int] {
        func lines() -> [Substring] { output.split(separator: "\n").filter { $0.contains("\"\(event)\"") } }
        let before = lines().count
        try signal(event == "window" ? SIGUSR1 : SIGTERM)
        try waitUntil("\(event) of labload") { lines().count > before }
        var numbers: [String: Int] = [:]
        for part in (lines().last ?? "").split(whereSeparator: { "{},".contains($0) }) {
            let pair = part.split(separator: ":").map { $0.filter { $0 != "\"" && $0 != " " } }
            if pair.count == 2 { numbers[pair[0]] = Double(pair[1]).map { Int($0.rounded(.up)) } }
        }
        return numbers
    }
}
