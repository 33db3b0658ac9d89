import Lab
import Testing

/// A service owes nothing to the host that it has left.
@Suite(.serialized, .survivalLab("home"))
struct SurvivalHomeTests {
    @Test func `The former host is switched off after a move, and connections go on`() throws {
        guard let lab = SurvivalLab.lab() else { return }
        let (unit, address) = ("counter.service", "10.10.10.121")
        let program = try lab.compile("counter")
        try lab.installService(unit, "[Service]\nExecStart=\(program) \(address) 7000\n")
        try lab.annotate(unit: unit, address: address)
        try lab["a"].start(unit)
        let original = try MasterProcess(of: unit, on: lab["a"])
        let client = try lab["c"].spawn(lab.clientProgram("counter-client"), address, "7000")
        defer { client.kill() }
        func numbers() throws -> Int {
            guard client.isRunning else { throw LabError("the client has ended: \(client.errorOutput)") }
            return client.output.split(separator: "\n").compactMap { Int($0.filter(\.isNumber)) }.last ?? 0
        }
        func awaitMore() throws {
            let before = try numbers()
            try waitUntil("more numbers") { try numbers() > before + 50 }
        }
        try awaitMore()
        let counters = try ClientCounters(lab["c"])
        try lab.migrate(unit, from: "a", to: "b")
        try waitUntil("the end of forwarding", timeout: .seconds(10)) {
            try !lab["a"].run("ip", "-o", "link").output.contains("mobh")
        }
        try lab.crash("a")
        try lab.link("a", up: false)
        try awaitMore()
        try expectArrived(unit, original, lab["b"])
        // One that knows the address from nobody.
        try lab["c"].run("ip", "neigh", "flush", "to", address)
        let second = try lab["c"].spawn(lab.clientProgram("counter-client"), address, "7000")
        defer { second.kill() }
        try waitUntil("a new client") { second.output.split(separator: "\n").count > 2 }
        try counters.expectNone()
    }
}
