import Glibc
import Lab
import Testing

/// Services of one host that talk to each other: local before a move, remote after it, local again.
@Suite(.serialized, .survivalLab("near"))
struct SurvivalNeighbourTests {
    private static let server = "near-server.service", client = "near-client.service"
    private static let serverAddress = "10.10.10.91", clientAddress = "10.10.10.92"

    private func install(_ lab: Lab) throws {
        let (server, client) = try (lab.compile("counter"), lab.compile("counter-client"))
        for (unit, line, address) in [
            (Self.server, "\(server) \(Self.serverAddress) 7000", Self.serverAddress),
            (Self.client, "\(client) \(Self.serverAddress) 7000", Self.clientAddress),
        ] {
            try lab.installService(
                unit, "[Service]\nExecStart=\(line)\n[X-Mobility]\nVirtualAddress=\(address)/24\n")
        }
    }

    /// What the client has counted, by its own word in the journal of the host where it is.
    private func count(_ host: LabHost) throws -> Int {
        let lines = try host.journal(Self.client).split(separator: "\n").filter { $0.hasSuffix("}") }
        return lines.last?.split(separator: ":").dropFirst().first.flatMap { Int($0.prefix(while: \.isNumber)) } ?? 0
    }

    private func awaitMore(_ host: LabHost) throws {
        let seen = try count(host)
        try waitUntil("more numbers of \(Self.client) on \(host.name)") { try count(host) > seen + 100 }
    }

    @Test func `A connection between two services outlives every move of either`() throws {
        guard let lab = SurvivalLab.lab() else { return }
        try install(lab)
        let a = try lab["a"]
        try a.start(Self.server)
        try a.start(Self.client)
        let originals = try [Self.server, Self.client].map { try MasterProcess(of: $0, on: a) }
        try awaitMore(a)
        // Resets are no judge here: the ends that a move leaves behind count as such.
        let hosts = try [lab["a"], lab["b"]]
        func timeouts() throws -> [Int?] { try hosts.map { try $0.counters()["TcpExt.TCPTimeouts"] } }
        let before = try timeouts()
        var place = [Self.server: "a", Self.client: "a"]
        for unit in [Self.server, Self.client, Self.server, Self.client, Self.client, Self.server] {
            let (source, destination) = place[unit] == "a" ? ("a", "b") : ("b", "a")
            try lab.migrate(unit, from: source, to: destination)
            place[unit] = destination
            try awaitMore(lab[place[Self.client] ?? "a"])
            for (unit, original) in zip([Self.server, Self.client], originals) {
                try expectArrived(unit, original, lab[place[unit] ?? "a"])
            }
        }
        #expect(try timeouts() == before)
        for unit in [Self.client, Self.server] { try lab[place[unit] ?? "a"].run("systemctl", "stop", unit) }
    }
}
