import Glibc
import Testing

@testable import Lab

/// Clients whom the service has not accepted, after a move that does not come about: each waits where it waited.
@Suite(.serialized)
struct RollbackQueueTests {
    private static let unit = "hoard.service", address = "10.10.10.12"

    /// The service, and forty clients who wait for it.
    private func start(_ lab: RollbackLab) throws -> (pid: Int, clients: LabProcess) {
        try lab.compile("\(Product.repository)/Tests/Programs/hoard.c")
        for host in ["a", "b"] {
            try lab.install(program: "hoard", on: host)
            try lab.install(
                unit: Self.unit, on: host,
                """
                [Service]
                ExecStart=/usr/local/bin/hoard serve \(Self.address) 7000
                [X-Mobility]
                VirtualAddress=\(Self.address)/24

                """)
        }
        let pid = try lab.start(Self.unit, on: "a")
        let clients = try lab["c"].spawn(lab.lab.clientProgram("hoard"), "load", Self.address, "7000", "40")
        try waitUntil("the clients") { clients.output.contains("start") }
        return (pid, clients)
    }

    private func expectServed(_ lab: RollbackLab, by pid: Int, on host: String, _ clients: LabProcess) throws {
        #expect(try lab.property("MainPID", of: Self.unit, on: host) == "\(pid)")
        try lab[host].run("kill", "-USR1", "\(pid)")
        #expect(try clients.wait(timeout: .seconds(20)).succeeded)
        #expect(
            clients.output.contains(#"{"event":"end","requests":40,"failed":0}"#),
            "\(clients.output)\(clients.errorOutput)")
    }

    @Test func `They wait in their order after a roll-back, and move then`() throws {
        if skippedWithoutRoot() { return }
        let lab = try RollbackLab("queue")
        try lab["b"].fail("embryo dup3:2:EBADF")
        let (pid, clients) = try start(lab)
        let failed = try lab.migrate(Self.unit, from: "a", to: "b")
        #expect(!failed.succeeded && failed.errorOutput.contains("EBADF"), "\(failed.errorOutput)")
        let move = try lab.migrate(Self.unit, from: "a", to: "b")
        #expect(move.succeeded, "\(move.errorOutput)")
        try expectServed(lab, by: pid, on: "b", clients)
    }

    /// Only descriptors hold them in that moment, those of the daemon.
    @Test func `They wait again when the daemon that had taken them is killed`() throws {
        if skippedWithoutRoot() { return }
        let lab = try RollbackLab("queue-killed")
        let (pid, clients) = try start(lab)
        let a = try lab["a"]
        let move = try lab.holdMove(of: Self.unit, from: "a", to: "b", at: "source.captured", on: "a") { _ in
            try a.run("kill", "-KILL", lab.property("MainPID", of: "mobilityd", on: "a"))
        }
        #expect(try !move.wait(timeout: .seconds(20)).succeeded)
        try waitUntil("the roll-back") {
            try lab.log(on: "a").contains("the unfinished move of \(Self.unit) is brought to its end")
        }
        try expectServed(lab, by: pid, on: "a", clients)
    }
}
