import Glibc
import Kernel
import Testing

@testable import Lab

/// What stands in the way of a move, or ends it before the commit: the service runs on where it was.
@Suite(.serialized)
struct RollbackTests {
    @Test func `What the destination lacks or has too much is refused before anything is touched`() throws {
        if skippedWithoutRoot() { return }
        let lab = try RollbackLab("lacks")
        let pid = try lab.start(on: "a")
        let talk = try lab.connect()
        let b = try lab["b"]

        // The program is not installed there.
        try b.run("mv", "/usr/local/bin/counter", "/root/counter")
        var refused = try lab.migrate(from: "a", to: "b")
        #expect(refused.status == .exited(1))
        #expect(refused.errorOutput.contains("/usr/local/bin/counter"))
        try lab.expectUndisturbed(on: "a", not: "b", pid: pid, talk: talk)
        try b.run("mv", "/root/counter", "/usr/local/bin/counter")

        // Somebody else has the process number.
        let occupant = try lab.occupy(pid, on: "b")
        refused = try lab.migrate(from: "a", to: "b")
        #expect(refused.status == .exited(1))
        for part in ["\(pid)", "taken", "node b", "sleep"] { #expect(refused.errorOutput.contains(part)) }
        try lab.evict(pid, on: "b", occupant)
        try lab.expectUndisturbed(on: "a", not: "b", pid: pid, talk: talk)

        try lab.expectMove(from: "a", to: "b", pid: pid)
        try talk.finish()
    }

    @Test func `A process number taken between the check and the preparation rolls back`() throws {
        if skippedWithoutRoot() { return }
        let lab = try RollbackLab("race")
        let pid = try lab.start(on: "a")
        let talk = try lab.connect()
        let b = try lab["b"]
        // The unit starts at the destination after the check and before the processes are made: what its start
        // brings with it takes the number, as any process of that host might.
        let taker =
            "python3 -c 'import os,time; f=open(\"/proc/sys/kernel/ns_last_pid\",\"w\")\n"
            + "while True:\n f.seek(0); f.write(\"\(pid - 1)\"); f.flush()\n p=os.fork()\n"
            + " if p==0: time.sleep(600); os._exit(0)\n if p==\(pid): break\n os.kill(p,9); os.waitpid(p,0)'"
        try b.write("/usr/local/bin/take", "#!/bin/sh\n\(taker)\n", mode: 0o755)
        try lab.install(
            unit: "take.service", on: "b",
            "[Service]\nType=oneshot\nRemainAfterExit=yes\nKillMode=control-group\nExecStart=/usr/local/bin/take\n")
        try b.run("mkdir", "-p", "/run/systemd/system/counter.service.d")
        try b.write(
            "/run/systemd/system/counter.service.d/take.conf", "[Unit]\nRequires=take.service\nAfter=take.service\n")
        try b.run("systemctl", "daemon-reload")
        let result = try lab.migrate(from: "a", to: "b")
        #expect(!result.succeeded)
        #expect(result.errorOutput.contains("process number \(pid) is in use"), "\(result.errorOutput)")
        try b.run("rm", "/run/systemd/system/counter.service.d/take.conf")
        try b.run("systemctl", "daemon-reload")
        try b.run("systemctl", "stop", "take.service")
        try lab.expectUndisturbed(on: "a", not: "b", pid: pid, talk: talk)
        try lab.expectMove(from: "a", to: "b", pid: pid)
        try talk.finish()
    }

    @Test func `A stop of the arriving unit at the destination rolls back`() throws {
        if skippedWithoutRoot() { return }
        let lab = try RollbackLab("stopped")
        let pid = try lab.start(on: "a")
        let talk = try lab.connect()
        let move = try lab.holdMove(from: "a", to: "b", at: "destination.pages", on: "b") { _ in
            try lab["b"].run("systemctl", "stop", "--no-block", RollbackLab.unit)
        }
        #expect(try !move.wait(timeout: .seconds(60)).succeeded, "\(move.output)")
        try lab.expectUndisturbed(on: "a", not: "b", pid: pid, talk: talk)
        try lab.expectMove(from: "a", to: "b", pid: pid)
        try talk.finish()
    }

    @Test func `The end of the destination's daemon in mid-move rolls back`() throws {
        if skippedWithoutRoot() { return }
        let lab = try RollbackLab("killed")
        let pid = try lab.start(on: "a")
        let talk = try lab.connect()
        var daemon = ""
        let move = try lab.holdMove(from: "a", to: "b", at: "destination.pages", on: "b") { _ in
            daemon = try lab.property("MainPID", of: "mobilityd", on: "b")
            try lab["b"].run("kill", "-KILL", daemon)
        }
        #expect(try !move.wait(timeout: .seconds(60)).succeeded, "\(move.output)")
        try waitUntil("mobilityd on b") {
            try lab.property("ActiveState", of: "mobilityd", on: "b") == "active"
                && lab.property("MainPID", of: "mobilityd", on: "b") != daemon
        }
        try lab.expectUndisturbed(on: "a", not: "b", pid: pid, talk: talk)
        try lab.expectMove(from: "a", to: "b", pid: pid)
        try talk.finish()
    }

    @Test func `A cable pulled in mid-transfer rolls back`() throws {
        if skippedWithoutRoot() { return }
        let lab = try RollbackLab("cable", megabytes: 300)
        let pid = try lab.start(on: "a")
        let talk = try lab.connect()
        let move = try lab.holdMove(from: "a", to: "b", at: "destination.pages", on: "b") { _ in
            try lab.lab.link("b", up: false)
        }
        #expect(try !move.wait(timeout: .seconds(90)).succeeded, "\(move.output)")
        try talk.awaitProgress(timeout: .seconds(20))
        try lab.lab.link("b", up: true)
        try lab.expectUndisturbed(on: "a", not: "b", pid: pid, talk: talk)
        try lab.expectMove(from: "a", to: "b", pid: pid)
        try talk.finish()
    }

    @Test func `A move can be cancelled until it commits`() throws {
        if skippedWithoutRoot() { return }
        let lab = try RollbackLab("cancel")
        let pid = try lab.start(on: "a")
        let talk = try lab.connect()
        let a = try lab["a"]
        for way in ["mobilityctl", "busctl"] {
            var id = ""
            try lab.holdMove(from: "a", to: "b", options: ["--no-block"], at: "destination.pages", on: "b") { move in
                try move.wait(timeout: .seconds(5))
                id = move.output.split(whereSeparator: \.isWhitespace).first.map(String.init) ?? ""
                if way == "mobilityctl" {
                    try a.run("mobilityctl", "cancel", id)
                } else {
                    try a.run(
                        "busctl", "call", "org.mobilityd1", "/org/mobilityd1/migration/\(id)",
                        "org.mobilityd1.Migration", "Cancel")
                }
            }
            let ended = try a.run("mobilityctl", "wait", id, allowFailure: true)
            #expect(ended.status == .exited(15), "\(ended.errorOutput)")
            try lab.expectUndisturbed(on: "a", not: "b", pid: pid, talk: talk)
        }
        try lab.expectMove(from: "a", to: "b", pid: pid)
        try talk.finish()
    }
}

extension RollbackLab {
    /// A process on that host with exactly that number.
    func occupy(_ pid: Int, on host: String) throws -> LabProcess {
        let script = "echo \(pid - 1) > /proc/sys/kernel/ns_last_pid; sleep 600 & [ $! = \(pid) ] && wait"
        for _ in 0..<20 {
            let process = try lab[host].spawn("sh", "-c", script)
            try waitUntil("process \(pid) on \(host), or the attempt's end") {
                try !process.isRunning
                    || lab[host].run("cat", "/proc/\(pid)/comm", allowFailure: true).trimmed == "sleep"
            }
            if process.isRunning { return process }
        }
        throw LabError("pid \(pid) could not be taken on \(host)")
    }

    /// Ends the process that took the number.
    func evict(_ pid: Int, on host: String, _ occupant: LabProcess) throws {
        try lab[host].run("kill", "-KILL", "\(pid)")
        try occupant.wait(timeout: .seconds(5))
    }
}
