import Glibc
import Testing

@testable import Lab

/// A service that dies in mid-move, while systemd has been told not to start it: its own `Restart=` holds all the same.
@Suite(.serialized)
struct RollbackRestartTests {
    private static let unit = "mortal.service", address = "10.10.10.13"

    private func start(_ lab: RollbackLab, restart: String) throws -> Int {
        for host in ["a", "b"] {
            try lab.install(
                unit: Self.unit, on: host,
                """
                [Service]
                ExecStart=/usr/local/bin/counter \(Self.address) 7000
                Restart=\(restart)
                RestartSec=100ms
                [X-Mobility]
                VirtualAddress=\(Self.address)/24

                """)
        }
        return try lab.start(Self.unit, on: "a")
    }

    private func expectStartedAgain(_ lab: RollbackLab, on host: String, not pid: Int) throws {
        do {
            try waitUntil("the start on \(host)", timeout: .seconds(20), interval: .milliseconds(50)) {
                try lab.property("ActiveState", of: Self.unit, on: host) == "active"
                    && ![pid, 0].contains(Int(lab.property("MainPID", of: Self.unit, on: host)))
            }
        } catch {
            Issue.record("\(error)\n\(try lab.log(on: "a"))\n--- b\n\(try lab.log(on: "b"))")
        }
    }

    private func expectEnded(_ lab: RollbackLab) throws {
        try waitUntil("the daemon's word", timeout: .seconds(20), interval: .milliseconds(50)) {
            try lab.log(on: "a").contains("is not started again")
        }
        #expect(try ["inactive", "failed"].contains(lab.property("ActiveState", of: Self.unit, on: "a")))
    }

    @Test func `A service killed at the source starts again there, and moves then`() throws {
        if skippedWithoutRoot() { return }
        let lab = try RollbackLab("mortal")
        let pid = try start(lab, restart: "on-failure")
        let move = try lab.holdMove(of: Self.unit, from: "a", to: "b", at: "source.frozen", on: "a") { _ in
            try lab["a"].run("kill", "-KILL", "\(pid)")
        }
        #expect(try !move.wait(timeout: .seconds(30)).succeeded)
        try expectStartedAgain(lab, on: "a", not: pid)
        let next = Int(try lab.property("MainPID", of: Self.unit, on: "a")) ?? 0
        try lab.expectMove(Self.unit, from: "a", to: "b", pid: next)
    }

    @Test func `A service killed at the destination before the move has settled starts again there`() throws {
        if skippedWithoutRoot() { return }
        let lab = try RollbackLab("mortal-there")
        let pid = try start(lab, restart: "always")
        let move = try lab.holdMove(of: Self.unit, from: "a", to: "b", at: "destination.committed-sent", on: "b") { _ in
            try lab["b"].run("kill", "-KILL", "\(pid)")
        }
        _ = try move.wait(timeout: .seconds(30))
        try expectStartedAgain(lab, on: "b", not: pid)
    }

    @Test func `Without Restart= it stays dead, and whoever stops it gets that`() throws {
        if skippedWithoutRoot() { return }
        let lab = try RollbackLab("mortal-no")
        let pid = try start(lab, restart: "no")
        let a = try lab["a"]
        var move = try lab.holdMove(of: Self.unit, from: "a", to: "b", at: "source.frozen", on: "a") { _ in
            try a.run("kill", "-KILL", "\(pid)")
        }
        #expect(try !move.wait(timeout: .seconds(30)).succeeded)
        try expectEnded(lab)
        let second = try start(lab, restart: "always")
        move = try lab.holdMove(of: Self.unit, from: "a", to: "b", at: "source.frozen", on: "a") { _ in
            try a.run("systemctl", "stop", "--no-block", Self.unit)
            try a.run("kill", "-KILL", "\(second)")
        }
        #expect(try !move.wait(timeout: .seconds(30)).succeeded)
        try expectEnded(lab)
    }
}
