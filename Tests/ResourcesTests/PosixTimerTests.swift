import Testing

@testable import Resources

/// What /proc/PID/timers says, and which clocks can be followed to another host.
@Suite struct PosixTimerTests {
    @Test func `Every block becomes a timer`() throws {
        let timers = PosixTimers.parse(
            """
            ID: 7
            signal: 41/00007fff86e452a8
            notify: signal/tid.3870
            ClockID: 1
            ID: 0
            signal: 0/0000000000000000
            notify: none/pid.3868
            ClockID: -6

            """)
        try #require(timers.count == 2)
        #expect(timers[0].id == 7 && timers[0].signal == 41 && timers[0].value == 0x7fff_86e4_52a8)
        #expect(timers[0].notification == 4 && timers[0].thread == 3870 && timers[0].clock == 1)
        #expect(timers[1].id == 0 && timers[1].notification == 1 && timers[1].thread == 0 && timers[1].clock == -6)
    }

    @Test func `Text that is none of it gives no timer`() {
        #expect(PosixTimers.parse("").isEmpty)
        #expect(PosixTimers.parse("signal: 1/2\nnonsense\nClockID: 1\n").isEmpty)
    }

    @Test func `CPU clocks name their process or thread`() throws {
        let process = try #require(CPUClock(~(100 as Int32) << 3 | 2))
        #expect(process.pid == 100 && !process.isOfThread)
        let thread = try #require(CPUClock(~(101 as Int32) << 3 | 6))
        #expect(thread.pid == 101 && thread.isOfThread)
        // CLOCK_PROCESS_CPUTIME_ID inside the kernel; CLOCK_THREAD_CPUTIME_ID there does not say whose.
        #expect(CPUClock(-6)?.pid == 0)
        #expect(CPUClock(-2) == nil)
        // Profiling time, a clock device, and what is no CPU clock.
        #expect(CPUClock(~(100 as Int32) << 3) == nil && CPUClock(~(5 as Int32) << 3 | 3) == nil && CPUClock(1) == nil)
    }
}
