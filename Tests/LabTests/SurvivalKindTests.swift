import Glibc
import Lab
import Testing

/// One service that holds one of each kind of kernel object, and says itself what a move has changed.
@Suite(.serialized, .survivalLab("kinds"))
struct SurvivalKindTests {
    @Test(arguments: [("kinds", "10.10.10.61", ""), ("kinds-user", "10.10.10.62", "User=www-data\nLimitNICE=+0\n")])
    func `Every kind of kernel object is after two moves what it was`(
        name: String, address: String, extra: String
    ) throws {
        guard let lab = SurvivalLab.lab() else { return }
        let unit = name + ".service"
        let (program, data, log) = (try lab.compile("kinds"), "\(Lab.programDirectory)/data", "/var/log/\(name)/log")
        for host in try [lab["a"], lab["b"]] {
            try host.write(data, String(repeating: "what stands in the file, line by line\n", count: 500))
            try host.write(log, "the log of \(host.name)\n")
            try host.run("chmod", "666", log)
        }
        try lab.installService(
            unit,
            """
            [Service]
            ExecStart=\(program) \(address) 7000 \(data) \(log)
            \(extra)
            [X-Mobility]
            VirtualAddress=\(address)/24

            """)
        try lab["a"].start(unit)
        let original = try MasterProcess(of: unit, on: lab["a"])
        let client = try Asker(lab, address, port: 7000)
        #expect(try client.ask("check") == "OK")
        #expect(try client.ask("check") == "OK", "asking has changed what is asked about")
        try expectOffsetClocks(lab)
        let counters = try ClientCounters(lab["c"])
        for (source, destination) in [("a", "b"), ("b", "a")] {
            try lab.migrate(unit, from: source, to: destination)
            let first = try client.ask("check")
            #expect(first == "OK", "after \(source)→\(destination)")
            let second = try client.ask("check")
            #expect(second == "OK", "after \(source)→\(destination), the second time")
            try expectArrived(unit, original, lab[destination])
            try expectLeft(unit, lab[source])
        }
        try counters.expectNone()
        // The log goes on where it is opened: at the destination's end, and nothing of either host's is lost.
        let asked = String(repeating: "asked\n", count: 2)
        #expect(try lab["a"].readText(log) == "the log of a\n" + asked + asked)
        #expect(try lab["b"].readText(log) == "the log of b\n" + asked)
        client.close()
        try lab["a"].run("systemctl", "stop", unit)
    }

    @Test func `Threads that wait in system calls wait on through two moves, and wake for what they wait for`() throws {
        guard let lab = SurvivalLab.lab() else { return }
        let (unit, address) = ("waits.service", "10.10.10.63")
        let program = try lab.compile("waits")
        try lab.installService(unit, "[Service]\nExecStart=\(program) \(address) 7000\n")
        try lab.annotate(unit: unit, address: address)
        try lab["a"].start(unit)
        let original = try MasterProcess(of: unit, on: lab["a"])
        let client = try Asker(lab, address, port: 7000)
        #expect(try client.ask("check") == "OK")
        for (source, destination) in [("a", "b"), ("b", "a")] {
            try lab.migrate(unit, from: source, to: destination)
            let answer = try client.ask("check")
            #expect(answer == "OK", "after \(source)→\(destination)")
            try expectArrived(unit, original, lab[destination])
        }
        // As undisturbed by a move that is taken back once its threads are captured.
        try lab["b"].fail("embryo socket:1:EMFILE")
        let failed = try lab["a"].run("mobilityctl", "migrate", unit, "b", allowFailure: true)
        #expect(failed.output.contains("rolled-back"), "\(failed.output)")
        let answer = try client.ask("check")
        #expect(answer == "OK", "after a roll-back")
        let awake = try client.ask("wake", timeout: .seconds(30))
        #expect(awake == "OK")
        client.close()
        try lab["b"].failNothing()
        try lab["a"].run("systemctl", "stop", unit)
    }

    @Test(arguments: [("timers", "10.10.10.64", "User=www-data", ""), ("rooted", "10.10.10.65", "", "/srv/rooted")])
    func `Timers of every sort keep their numbers, their pace and the time that is left`(
        name: String, address: String, user: String, root: String
    ) throws {
        guard let lab = SurvivalLab.lab() else { return }
        let unit = name + ".service"
        let program = try lab.compile("timers")
        if !root.isEmpty { for host in try [lab["a"], lab["b"]] { try host.write(root + "/here", "") } }
        try lab.installService(unit, "[Service]\n\(user)\nExecStart=\(program) \(address) 7000 \(root)\n")
        try lab.annotate(unit: unit, address: address)
        try lab["a"].start(unit)
        let original = try MasterProcess(of: unit, on: lab["a"])
        let client = try Asker(lab, address, port: 7000)
        #expect(try client.ask("check") == "OK")
        for (source, destination) in [("a", "b"), ("b", "a"), ("a", "b")] {
            try lab.migrate(unit, from: source, to: destination)
            let answer = try client.ask("check")
            #expect(answer == "OK", "after \(source)→\(destination)")
            try expectArrived(unit, original, lab[destination])
        }
        client.close()
        try lab["b"].run("systemctl", "stop", unit)
    }

    /// The hosts' clocks are a thousand seconds apart: a service that kept its clocks owes it to the move.
    private func expectOffsetClocks(_ lab: Lab) throws {
        let uptimes = try ["a", "b"].map { (name: String) throws -> Int in
            let uptime = try lab[name].run("cut", "-d.", "-f1", "/proc/uptime").trimmed
            return try #require(Int(uptime))
        }
        #expect((990...1010).contains(uptimes[1] - uptimes[0]))
    }
}
