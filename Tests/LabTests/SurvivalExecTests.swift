import Lab
import Testing

/// The unit's own command lines belong to starts and stops, not to moves.
@Suite(.serialized, .survivalLab("exec"))
struct SurvivalExecTests {
    private static let words = "/var/lib/exec-words"

    /// The words that the Exec lines have appended on a host since the last call.
    private func take(_ host: LabHost) throws -> [String] {
        let said = try host.run("sh", "-c", "cat \(Self.words) 2>/dev/null; rm -f \(Self.words)", allowFailure: true)
        return said.output.split(separator: "\n").map(String.init)
    }

    @Test func `No Exec line runs in a move on either host, and all run at the next restart`() throws {
        guard let lab = SurvivalLab.lab() else { return }
        let (unit, address) = ("exec-lines.service", "10.10.10.41")
        let program = try lab.compile("typed")
        func say(_ word: String) -> String { "/bin/sh -c 'echo \(word) >> \(Self.words)'" }
        try lab.installService(
            unit,
            """
            [Service]
            ExecCondition=\(say("condition"))
            ExecStartPre=\(say("start-pre"))
            ExecStart=/bin/sh -c 'echo start >> \(Self.words); exec \(program) run \(address) 7000'
            ExecStartPost=\(say("start-post"))
            ExecReload=\(say("reload"))
            ExecStop=\(say("stop"))
            ExecStopPost=\(say("stop-post"))

            """)
        try lab.annotate(unit: unit, address: address)
        let (a, b) = try (lab["a"], lab["b"])
        try a.start(unit)
        try waitUntil("\(unit) ready") { try a.journal(unit).contains("typed: ready") }
        #expect(try Set(take(a)) == ["condition", "start-pre", "start", "start-post"])
        let original = try MasterProcess(of: unit, on: a)
        for (source, destination) in [(a, b), (b, a), (a, b)] {
            try lab.migrate(unit, from: source.name, to: destination.name)
            try expectArrived(unit, original, destination)
            try expectLeft(unit, source)
            #expect(try take(source) == [])
            #expect(try take(destination) == [])
        }
        try b.run("systemctl", "reload", unit)
        #expect(try take(b) == ["reload"])
        try b.run("systemctl", "restart", unit)
        try waitUntil("\(unit) ready") { try b.journal(unit).contains("typed: ready") }
        let atRestart = try take(b)
        #expect(atRestart.prefix(4) == ["stop", "stop-post", "condition", "start-pre"])
        #expect(Set(atRestart.dropFirst(4)) == ["start", "start-post"])
        try b.run("systemctl", "stop", unit)
        #expect(try take(b) == ["stop", "stop-post"])
        #expect(try take(a) == [])
    }
}
