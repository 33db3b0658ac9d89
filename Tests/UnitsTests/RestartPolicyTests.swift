import Testing

@testable import Units

/// The table of systemd.service(5), "Exit causes and the effect of the Restart= settings".
@Suite struct RestartPolicyTests {
    private struct End { let result: String, code: Int32, status: Int32 }
    private static let ends: [String: End] = [
        "clean": End(result: "success", code: 1, status: 0),
        "clean signal": End(result: "success", code: 2, status: 15),
        "unclean code": End(result: "exit-code", code: 1, status: 3),
        "unclean signal": End(result: "signal", code: 2, status: 11),
        "core dump": End(result: "core-dump", code: 3, status: 11),
        "time-out": End(result: "timeout", code: 2, status: 15),
        "watchdog": End(result: "watchdog", code: 2, status: 6),
        // What the drop-in of a move makes of a SIGKILL.
        "hidden SIGKILL": End(result: "success", code: 2, status: 9),
    ]

    private func restarted(_ mode: String) -> Set<String> {
        let policy = RestartPolicy(["Restart": .text(mode)])
        return Set(
            Self.ends.filter { policy.restarts(result: $0.value.result, code: $0.value.code, status: $0.value.status) }
                .keys)
    }

    @Test func `Each mode restarts after the ends that systemd restarts after`() {
        let unclean: Set = ["unclean signal", "core dump", "time-out", "watchdog", "hidden SIGKILL"]
        #expect(restarted("no").isEmpty)
        #expect(restarted("always") == Set(Self.ends.keys))
        #expect(restarted("on-success") == ["clean", "clean signal"])
        #expect(restarted("on-failure") == unclean.union(["unclean code"]))
        #expect(restarted("on-abnormal") == unclean)
        #expect(restarted("on-abort") == ["unclean signal", "core dump", "hidden SIGKILL"])
        #expect(restarted("on-watchdog") == ["watchdog"])
    }

    @Test func `Exit codes and signals may forbid a start or force one`() {
        func set(_ codes: [Int64], _ signals: [Int64]) -> BusValue { .fields([list(codes), list(signals)]) }
        func list(_ numbers: [Int64]) -> BusValue { .list(numbers.map { .signed($0) }) }
        let policy = RestartPolicy([
            "Restart": .text("on-failure"), "RestartPreventExitStatus": set([3], [11]),
            "RestartForceExitStatus": set([0], [15]),
        ])
        #expect(!policy.restarts(result: "exit-code", code: 1, status: 3))
        #expect(policy.restarts(result: "exit-code", code: 1, status: 11))
        #expect(!policy.restarts(result: "signal", code: 2, status: 11))
        #expect(policy.restarts(result: "success", code: 1, status: 0))
        #expect(policy.restarts(result: "success", code: 2, status: 15))
    }

    @Test func `A SIGKILL that the unit calls a success is one`() {
        let lists: BusValue = .fields([.list([]), .list([.signed(9)])])
        let policy = RestartPolicy(["Restart": .text("on-failure"), "SuccessExitStatus": lists])
        #expect(!policy.restarts(result: "success", code: 2, status: 9))
    }
}
