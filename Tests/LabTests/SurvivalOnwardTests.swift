import Testing

@testable import Lab

/// A service that is sent on as soon as it has arrived.
@Suite(.serialized)
struct SurvivalOnwardTests {
    @Test func `A move onward waits until the service has settled`() throws {
        if skippedWithoutRoot() { return }
        let lab = try RollbackLab("onward")
        let pid = try lab.start(on: "a")
        let talk = try lab.connect()
        var onward: LabProcess?
        let move = try lab.holdMove(from: "a", to: "b", at: "destination.settling", on: "b") { _ in
            let process = try lab["b"].spawn("mobilityctl", "migrate", RollbackLab.unit, "a")
            try waitUntil("the move onward, or its refusal") {
                try !process.isRunning || lab.log(on: "b").contains("migration of \(RollbackLab.unit) to a begins")
            }
            onward = process
        }
        #expect(try move.wait(timeout: .seconds(30)).succeeded, "\(move.errorOutput)")
        #expect(try onward?.wait(timeout: .seconds(30)).succeeded == true, "\(onward?.errorOutput ?? "")")
        #expect(try lab.property("MainPID", on: "a") == "\(pid)")
        try lab.expectMove(from: "a", to: "b", pid: pid)
        try talk.finish()
    }
}
