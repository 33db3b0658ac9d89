import Glibc
import Kernel
import Testing

@testable import Lab

/// The source's daemon ends in mid-move; the one that follows brings the move to its end.
@Suite(.serialized)
struct RollbackRecoveryTests {
    private static let record = "/var/lib/mobilityd/ownership/unit-\(RollbackLab.unit)"

    /// Ends the source's daemon while the service is frozen, with `before` done ahead of the next one's start.
    private func endDaemon(_ lab: RollbackLab, before: String = "true") throws {
        var daemon = ""
        let move = try lab.holdMove(from: "a", to: "b", at: "source.frozen", on: "a") { _ in
            daemon = try lab.property("MainPID", of: "mobilityd", on: "a")
            try lab["a"].run("sh", "-c", "\(before); kill -KILL \(daemon)")
        }
        _ = try move.wait(timeout: .seconds(30))
        try waitUntil("the next mobilityd on a", timeout: .seconds(20), interval: .milliseconds(50)) {
            try lab.property("ActiveState", of: "mobilityd", on: "a") == "active"
                && lab.property("MainPID", of: "mobilityd", on: "a") != daemon
        }
    }

    private func awaitRecovery(_ lab: RollbackLab) throws {
        try waitUntil("the end of the unfinished move", timeout: .seconds(20), interval: .milliseconds(50)) {
            try lab.log(on: "a", lines: 60).contains("is brought to its end")
        }
    }

    @Test func `A daemon that ends before the commit leaves a service that runs on`() throws {
        if skippedWithoutRoot() { return }
        let lab = try RollbackLab("crash")
        let pid = try lab.start(on: "a")
        let talk = try lab.connect()
        try endDaemon(lab)
        try awaitRecovery(lab)
        try lab.expectUndisturbed(on: "a", not: "b", pid: pid, talk: talk)
        try lab.expectMove(from: "a", to: "b", pid: pid)
        try talk.finish()
    }

    @Test func `A move in doubt is asked about, and rolled back when the destination has not committed`() throws {
        if skippedWithoutRoot() { return }
        let lab = try RollbackLab("doubt")
        let pid = try lab.start(on: "a")
        let talk = try lab.connect()
        try endDaemon(lab, before: "echo in-doubt some-move b > \(Self.record)")
        try awaitRecovery(lab)
        #expect(try lab["a"].readText(Self.record) == "here\n")
        try lab.expectUndisturbed(on: "a", not: "b", pid: pid, talk: talk)
        try lab.expectMove(from: "a", to: "b", pid: pid)
        try talk.finish()
    }

    @Test func `A move in doubt stays frozen until the destination answers, and ends here when it committed`() throws {
        if skippedWithoutRoot() { return }
        let lab = try RollbackLab("given")
        let pid = try lab.start(on: "a")
        let a = try lab["a"]
        // What a destination that has committed has on record; and a wire that is cut before the question.
        try lab["b"].write("/var/lib/mobilityd/ownership/moves/some-move", RollbackLab.unit + "\n", mode: 0o600)
        try endDaemon(lab, before: "ip link set eth0 down; echo in-doubt some-move b > \(Self.record)")
        try waitUntil("the state in doubt") {
            try a.run("mobilityctl", "status", RollbackLab.unit).output.contains("in doubt")
        }
        #expect(try a.run("cat", "/sys/fs/cgroup/system.slice/\(RollbackLab.unit)/moving/cgroup.freeze").trimmed == "1")
        #expect(try a.run("mobilityctl", "migrate", RollbackLab.unit, "b", allowFailure: true).status == .exited(9))
        try a.run("ip", "link", "set", "eth0", "up")
        try awaitRecovery(lab)
        #expect(try a.readText(Self.record) == "departed b\n")
        #expect(try lab.property("ActiveState", on: "a") == "inactive")
        #expect(try lab.property("Result", on: "a") == "success")
        #expect(try lab.traces(on: "a", pid: pid).isEmpty)
    }

    @Test(arguments: ["keep", "give-up"])
    func `A move in doubt is resolved by an administrator who knows that the other host is off`(
        choice: String
    ) throws {
        if skippedWithoutRoot() { return }
        let lab = try RollbackLab("resolve")
        let pid = try lab.start(on: "a")
        let a = try lab["a"]
        let talk = try lab.connect()
        func resolve(_ arguments: String...) throws -> CommandResult {
            try a.run(["mobilityctl", "resolve", RollbackLab.unit] + arguments, allowFailure: true)
        }
        let early = try resolve("--keep", "--other-host-is-off")
        #expect(!early.succeeded && early.errorOutput.contains("is not in doubt"), "\(early.errorOutput)")
        try endDaemon(lab, before: "ip link set eth0 down; echo in-doubt some-move b > \(Self.record)")
        try lab.lab.link("b", up: false)
        try a.run("ip", "link", "set", "eth0", "up")
        try waitUntil("the state in doubt") {
            try a.run("mobilityctl", "status", RollbackLab.unit).output.contains("in doubt")
        }
        let careless = try resolve("--\(choice)")
        #expect(!careless.succeeded && careless.errorOutput.contains("--other-host-is-off"))
        let rash = try a.run(
            "busctl", "call", "org.mobilityd1", "/org/mobilityd1", "org.mobilityd1.Manager", "ResolveUnit", "ssb",
            RollbackLab.unit, choice, "false", allowFailure: true)
        #expect(!rash.succeeded && rash.errorOutput.contains("known to be off"), "\(rash.errorOutput)")

        #expect(try resolve("--\(choice)", "--other-host-is-off").succeeded)
        try awaitRecovery(lab)
        if choice == "keep" {
            #expect(try a.readText(Self.record) == "here\n")
            try talk.awaitProgress()
            try lab.lab.link("b", up: true)
            try lab.expectUndisturbed(on: "a", not: "b", pid: pid, talk: talk)
            try lab.expectMove(from: "a", to: "b", pid: pid)
            try talk.finish()
        } else {
            #expect(try a.readText(Self.record) == "departed b\n")
            #expect(try lab.property("ActiveState", on: "a") == "inactive")
            #expect(try lab.traces(on: "a", pid: pid).isEmpty)
        }
    }

    @Test func `An arrival is final once its source has given the unit up, and asks until it has`() throws {
        if skippedWithoutRoot() { return }
        let lab = try RollbackLab("confirm")
        let (a, b) = (try lab["a"], try lab["b"])
        let pid = try lab.start(on: "a")
        try lab.expectMove(from: "a", to: "b", pid: pid)
        // The source has said so by itself.
        try waitUntil("the confirmation") { try b.readText(Self.record) == "here\n" }
        #expect(try b.run("ls", "/var/lib/mobilityd/ownership/moves").trimmed == "")

        // As if the wire had broken before it did: not a start, nor a move, without its word.
        try b.run("systemctl", "stop", RollbackLab.unit)
        try b.write(Self.record, "arrived some-move a\n", mode: 0o600)
        try lab.lab.link("a", up: false)
        try expectNoStart(lab, on: "b", because: "has not confirmed")
        try lab.lab.link("a", up: true)
        try lab.start(on: "b")
        #expect(try b.readText(Self.record) == "here\n")
        try b.write(Self.record, "arrived some-move a\n", mode: 0o600)
        try a.write(Self.record, "in-doubt other-move b\n", mode: 0o600)
        let result = try lab.migrate(from: "b", to: "a")
        #expect(!result.succeeded && result.errorOutput.contains("not yet given it up"), "\(result.errorOutput)")
        try a.write(Self.record, "departed b\n", mode: 0o600)
        try b.run("systemctl", "restart", "mobilityd")
        try waitUntil("the confirmation after a restart") { try b.readText(Self.record) == "here\n" }

        // A source whose administrator kept the unit: it starts there only.
        try b.run("systemctl", "stop", RollbackLab.unit)
        try b.write(Self.record, "arrived some-move a\n", mode: 0o600)
        try a.write(Self.record, "here\n", mode: 0o600)
        try lab.start(on: "a")
        try expectNoStart(lab, on: "b", because: "runs on node a")
        #expect(try b.readText(Self.record) == "departed a\n")
    }

    @Test func `A host that gives a unit away asks before it starts it again`() throws {
        if skippedWithoutRoot() { return }
        let lab = try RollbackLab("given-away")
        let (a, b) = (try lab["a"], try lab["b"])
        let pid = try lab.start(on: "a")
        try lab.expectMove(from: "a", to: "b", pid: pid)
        try b.run("systemctl", "stop", RollbackLab.unit)
        // It left a, which asks b, and b has given it away by its answer.
        try lab.start(on: "a")
        #expect(try b.readText(Self.record) == "departed a\n")
        try expectNoStart(lab, on: "b", because: "runs on node a")
        // A silent host may run it.
        try a.run("ip", "link", "set", "eth0", "down")
        try expectNoStart(lab, on: "b", because: "cannot be asked")
        try a.run("ip", "link", "set", "eth0", "up")
        try a.run("systemctl", "stop", RollbackLab.unit)
        try lab.start(on: "b")
        #expect(try b.readText(Self.record) == "here\n")
        #expect(try a.readText(Self.record) == "departed b\n")
    }

    @Test func `A host asks along the way that a unit has gone`() throws {
        if skippedWithoutRoot() { return }
        let lab = try RollbackLab("third", hosts: ["a", "b", "d"])
        let pid = try lab.start(on: "a")
        try lab.expectMove(from: "a", to: "b", pid: pid)
        try lab.expectMove(from: "b", to: "d", pid: pid)
        try expectNoStart(lab, on: "a", because: "runs on node d")
        #expect(try lab["a"].readText(Self.record) == "departed d\n")
        // d is off: nobody but d can say that it does not run the unit.
        try lab.lab.link("d", up: false)
        try expectNoStart(lab, on: "b", because: "cannot be asked")
        try lab.lab.link("d", up: true)
        try lab["d"].run("systemctl", "stop", RollbackLab.unit)
        try lab.start(on: "a")
        try expectNoStart(lab, on: "b", because: "runs on node a")
    }

    /// A start that the unit's condition skips: systemctl(1) calls that no failure.
    private func expectNoStart(_ lab: RollbackLab, on host: String, because why: String) throws {
        try lab[host].run("systemctl", "start", RollbackLab.unit, allowFailure: true)
        #expect(try lab.property("ActiveState", on: host) == "inactive")
        let log = try lab.log(of: RollbackLab.unit, on: host)
        #expect(log.contains(why), "\(log)")
    }
}
