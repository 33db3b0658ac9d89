import Glibc
import Kernel
import Testing

@testable import Lab

/// An administrator's word that comes before the source has given up waiting for the destination's.
@Suite(.serialized)
struct RollbackResolveTests {
    private static let unit = "udp-echo.service"
    private static let address = "10.10.10.12"
    private static let record = "/var/lib/mobilityd/ownership/unit-\(unit)"

    @Test func `It counts at once, and what was sent to the other host comes back to the service`() throws {
        if skippedWithoutRoot() { return }
        let lab = try RollbackLab("resolve-early")
        let (a, c) = (try lab["a"], try lab["c"])
        let program = try lab.lab.compile("udp-echo")
        try lab.lab.installService(
            Self.unit, "[Service]\nExecStart=\(program) serve \(Self.address) 7000\n")
        try lab.lab.annotate(unit: Self.unit, address: Self.address)
        let pid = try lab.start(Self.unit, on: "a")
        let load = try c.spawn(lab.lab.clientProgram("udp-echo"), "load", Self.address, "7000", "60")
        defer { load.kill() }
        try waitUntil("the load") { load.output.contains("start") }

        let move = try lab.holdMove(of: Self.unit, from: "a", to: "b", at: "source.in-doubt-recorded", on: "a") { _ in
            try lab.lab.link("b", up: false)
            try Poll.pause(milliseconds: 200)  // packets that wait
        }
        // They are on their way to a host that does not hear them.
        try waitUntil("the doubt") { try a.readText(Self.record).hasPrefix("in-doubt") }
        try Poll.pause(milliseconds: 200)  // packets that are sent to it
        let begin = Clock.monotonic
        try a.run("mobilityctl", "resolve", Self.unit, "--keep", "--other-host-is-off")
        // The source itself waits ten seconds for an answer to its commit.
        #expect(Clock.monotonic - begin < 6_000_000_000)
        #expect(try a.readText(Self.record) == "here\n")
        #expect(try !move.wait(timeout: .seconds(30)).succeeded)
        let end = try load.loadReport("end")
        #expect(end["failed"] == 0 && end["resets"] == 0, "\(load.output)")
        #expect(try lab.property("MainPID", of: Self.unit, on: "a") == "\(pid)")
        try lab.lab.link("b", up: true)
        try waitUntil("the end of the arrival", timeout: .seconds(30)) {
            let left = try lab.traces(on: "b", address: Self.address, pid: pid)
            guard left.isEmpty else { throw LabError("left on b: \(left)\n\(try lab.log(on: "b"))") }
            return true
        }
        try lab.expectMove(Self.unit, from: "a", to: "b", pid: pid)
    }
}
