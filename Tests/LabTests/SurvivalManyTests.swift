import Glibc
import Kernel
import Lab
import Testing

/// A host with a thousand virtual addresses.
@Suite(.serialized, .survivalLab("many"))
struct SurvivalManyTests {
    private static let unit = "many.service"
    private static let other = "udp-echo.service"
    private static let otherAddress = "10.10.10.95"
    private static let addresses =
        (1...100).map { "10.10.10.\(110 + $0)" } + (1...900).map { "fd10:10:10::5:\(String($0, radix: 16))" }

    private func start(_ lab: Lab) throws {
        let program = try lab.compile("udp-echo")
        try lab.installService(Self.other, "[Service]\nExecStart=\(program) serve \(Self.otherAddress) 7000\n")
        try lab.annotate(unit: Self.other, address: Self.otherAddress)
        try lab.installService(
            Self.unit, "[Service]\nExecStart=/usr/bin/python3 -m http.server --bind :: --directory /usr/share 8000\n")
        try lab.annotate(unit: Self.unit, addresses: Self.addresses)
        try lab["a"].start(Self.other)
    }

    /// The unit's addresses that the host has.
    private func present(_ host: LabHost) throws -> Set<String> {
        let words = try host.run("ip", "-o", "address").output.split(whereSeparator: \.isWhitespace)
        let all = Set(words.compactMap { $0.split(separator: "/").first.map(String.init) })
        return all.intersection(Self.addresses)
    }

    private func expectServed(_ lab: Lab, _ address: String) throws {
        let host = address.contains(":") ? "[\(address)]" : address
        let program = "import urllib.request as r; print(r.urlopen('http://\(host):8000/', timeout=5).status)"
        try waitUntil("an answer of \(address)") { try lab["c"].run("python3", "-c", program).trimmed == "200" }
    }

    /// The load's own account of a time in which nothing may have been lost.
    private func expectUndisturbed(
        _ load: LabProcess, silence: Int, sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        let end = try load.loadReport("end")
        try load.wait(timeout: .seconds(10))
        #expect(end["failed"] == 0, "\(load.output)", sourceLocation: sourceLocation)
        #expect(end["longest_silence_ms"] ?? 9999 < silence, "\(load.output)", sourceLocation: sourceLocation)
    }

    private func load(_ lab: Lab) throws -> LabProcess {
        let load = try lab["c"].spawn(lab.clientProgram("udp-echo"), "load", Self.otherAddress, "7000", "2000")
        try waitUntil("the load") { load.output.contains("start") }
        return load
    }

    @Test func `They come and go in a second, by no more threads, and the other services notice nothing`() throws {
        guard let lab = SurvivalLab.lab() else { return }
        let a = try lab["a"]
        try start(lab)
        defer {
            for unit in [Self.unit, Self.other] {
                for host in ["a", "b"] { _ = try? lab[host].run("systemctl", "stop", unit, allowFailure: true) }
            }
        }
        let daemon = try a.property("MainPID", of: "mobilityd.service")
        func threads() throws -> Int { try a.run("ls", "/proc/\(daemon)/task").output.split(separator: "\n").count }
        let (alone, quiet) = (try threads(), try load(lab))
        let begin = Clock.monotonic
        try a.start(Self.unit)
        let milliseconds = (Clock.monotonic - begin) / 1_000_000
        // The question whether somebody has them takes 0.4 s of this.
        #expect(milliseconds < 5000, "started in \(milliseconds) ms")
        #expect(try present(a).count == Self.addresses.count)
        #expect(try threads() < alone + 10)
        for index in [0, 99, 100, 555, 999] { try expectServed(lab, Self.addresses[index]) }
        try expectUndisturbed(quiet, silence: 200)

        // The neighbour moves as it does without them.
        let moving = try load(lab)
        try lab.migrate(Self.other, from: "a", to: "b")
        try lab.migrate(Self.other, from: "b", to: "a")
        try expectUndisturbed(moving, silence: 1000)

        // One that is taken away comes back; those of a service that ends go.
        try a.run("ip", "address", "del", Self.addresses[555] + "/128", "dev", "eth0")
        try waitUntil("the address that was removed") { try present(a).count == Self.addresses.count }
        try a.run("systemctl", "stop", Self.unit)
        #expect(try present(a).isEmpty)
    }
}
