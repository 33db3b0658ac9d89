import Glibc
import Lab
import Testing

/// Debian's nginx under load, moved again and again.
@Suite(.serialized, .survivalLab("load"))
struct SurvivalLoadTests {
    @Test func `nginx answers every request through ten moves`() throws {
        guard let lab = SurvivalLab.lab() else { return }
        let (unit, address) = ("nginx.service", "10.10.10.51")
        // A connection is closed after 20 answers: kept ones and new ones are always both there.
        for host in try [lab["a"], lab["b"]] {
            try host.write("/etc/nginx/conf.d/survival.conf", "keepalive_requests 20;\n")
        }
        try lab.annotate(unit: unit, address: address)
        try lab["a"].start(unit)
        let original = try MasterProcess(of: unit, on: lab["a"])
        let counters = try ClientCounters(lab["c"])
        let load = try lab["c"].spawn(
            Product.releaseDirectory + "/labload", "keepalive", "--host", address, "--path",
            "/index.nginx-debian.html", "--connections", "20", "--interval-ms", "20")
        defer { load.kill() }
        try waitUntil("start of labload") { load.output.contains("\"start\"") }
        for move in 0..<10 {
            let (source, destination) = move % 2 == 0 ? ("a", "b") : ("b", "a")
            try waitUntil("answers before move \(move + 1)") {
                let window = try report(load, "window")
                #expect(window["failed"] == 0 && window["resets"] == 0, "\(load.output.suffix(300))")
                return window["requests"] ?? 0 > 0
            }
            try lab.migrate(unit, from: source, to: destination)
            try expectArrived(unit, original, lab[destination])
            try expectLeft(unit, lab[source])
        }
        try counters.expectNone()
        let total = try report(load, "end")
        #expect(total["failed"] == 0 && total["resets"] == 0, "\(load.output.suffix(300))")
        #expect(total["requests"] ?? 0 > 1000 && total["reconnects"] ?? 0 > 20)
        try lab["a"].run("systemctl", "stop", unit)
    }

    /// Asks labload for a window (SIGUSR1) or for its end (SIGTERM) and returns the whole numbers of its line.
    private func report(_ load: LabProcess, _ event: String) throws -> [String: Int] {
        func lines() -> [Substring] { load.output.split(separator: "\n").filter { $0.contains("\"\(event)\"") } }
        let before = lines().count
        try load.signal(event == "window" ? SIGUSR1 : SIGTERM)
        try waitUntil("\(event) of labload") { lines().count > before }
        var numbers: [String: Int] = [:]
        for part in (lines().last ?? "").split(whereSeparator: { "{},".contains($0) }) {
            let pair = part.split(separator: ":").map { $0.filter { $0 != "\"" && $0 != " " } }
            if pair.count == 2 { numbers[pair[0]] = Int(pair[1]) }
        }
        return numbers
    }
}
