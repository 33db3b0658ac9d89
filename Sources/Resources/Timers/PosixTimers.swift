import CKernel
import Glibc
import Kernel
import KernelCapture
import ProcessImage

/// The timers of timer_create(2), which belong to a process and go by numbers that it knows.
///
/// What they are /proc/PID/timers tells (Documentation/filesystems/proc.rst), when they go off the kernel's program.
/// How often one has gone off and was not heard, timer_getoverrun(2), begins anew.
public enum PosixTimers {
    /// The clocks on which a timer can be made again; those of CPU time come besides.
    private static let clocks: [Int32] = [CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME]

    // MARK: - Check

    public static func check(pid: Int32, _ records: [PosixTimerRecord]) -> [Refusal] {
        if records.isEmpty { return [] }
        func refusal(_ object: String, _ why: String, _ remedy: String) -> Refusal {
            Refusal(pid: pid, subject: "timer_create", object: object, why: why, remedy: remedy)
        }
        guard records.count < posixTimerLimit else {
            return [refusal("", "\(posixTimerLimit) timers or more are not carried", "use timerfd in the service")]
        }
        return ((try? list(pid: pid)) ?? []).compactMap { timer in
            let isCarried = timer.clock < 0 ? CPUClock(timer.clock) != nil : clocks.contains(timer.clock)
            if isCarried { return nil }
            return refusal(
                "timer \(timer.id)", "its clock \(timer.clock) cannot be set for it on another host",
                "use CLOCK_MONOTONIC, or pthread_getcpuclockid(3) in place of CLOCK_THREAD_CPUTIME_ID")
        }
    }

    // MARK: - Capture

    /// The timers of a process that is frozen.
    public static func capture(pid: Int32, _ records: [PosixTimerRecord]) throws(ResourceError) -> [PosixTimerImage] {
        if records.isEmpty { return [] }
        do throws(KernelError) {
            var timers = try list(pid: pid)
            for index in timers.indices {
                guard let record = records.first(where: { $0.id == timers[index].id }) else {
                    throw KernelError(call: "timer_create", object: "timer \(timers[index].id)", code: .noEntry)
                }
                timers[index].isArmed = record.isArmed
                timers[index].interval = record.interval
                timers[index].isAbsolute = record.clock == CLOCK_REALTIME
                timers[index].next = record.next
                // SIGEV_NONE: never queued; by the time alone the kernel tells whether it is armed, common_timer_get().
                if timers[index].notification == 1 && record.clock != nil {
                    let now = timers[index].isAbsolute ? Clock.realtime : 0
                    timers[index].isArmed = record.interval > 0 || record.next > now
                }
                if record.isArmed, record.clock != nil {
                    let now = timers[index].isAbsolute ? Clock.realtime : 0
                    timers[index].next = now + IntervalTimer.next(record.next - now, record.interval)
                }
                if record.clock == nil, let clock = CPUClock(timers[index].clock) {
                    timers[index].next -= try clock.read(of: pid)
                }
            }
            return timers
        } catch {
            throw ResourceError("process \(pid)", "cannot read its timers", cause: error)
        }
    }

    /// The blocks of /proc/PID/timers: `ID: 1`, `signal: 60/00007fff86e452a8`, `notify: signal/pid.2634`, `ClockID: 0`.
    static func list(pid: Int32) throws(KernelError) -> [PosixTimerImage] {
        parse(try Files.readText("/proc/\(pid)/timers"))
    }

    static func parse(_ text: String) -> [PosixTimerImage] {
        var timers: [PosixTimerImage] = []
        for line in text.split(separator: "\n") {
            let words = line.split(separator: ":", maxSplits: 1).map { $0.drop { $0 == " " } }
            guard words.count == 2 else { continue }
            let parts = words[1].split(separator: "/")
            switch words[0] {
            case "ID":
                timers.append(
                    PosixTimerImage(
                        id: Int32(words[1]) ?? -1, clock: 0, signal: 0, value: 0, notification: 0, thread: 0))
            case "signal" where parts.count == 2 && !timers.isEmpty:
                timers[timers.count - 1].signal = Int32(parts[0]) ?? 0
                timers[timers.count - 1].value = UInt64(parts[1], radix: 16) ?? 0
            case "notify" where parts.count == 2 && !timers.isEmpty:
                let target = parts[1].split(separator: ".")
                // SIGEV_SIGNAL, SIGEV_NONE, SIGEV_THREAD; SIGEV_THREAD_ID is a bit beside them.
                let kind: Int32 = parts[0] == "none" ? 1 : parts[0] == "thread" ? 2 : 0
                let isOfThread = target.first == "tid"
                timers[timers.count - 1].notification = isOfThread ? kind | 4 : kind
                timers[timers.count - 1].thread = isOfThread ? target.last.flatMap { Int32($0) } ?? 0 : 0
            case "ClockID" where !timers.isEmpty: timers[timers.count - 1].clock = Int32(words[1]) ?? 0
            default: break
            }
        }
        return timers
    }

    // MARK: - Restore

    /// Makes the timers under their numbers and sets them going. The process has none of its own yet.
    public static func restore(_ timers: [PosixTimerImage], in embryo: any EmbryoPort) throws(KernelError) {
        if timers.isEmpty { return }
        // PR_TIMER_CREATE_RESTORE_IDS, from Linux 6.15: timer_create takes the number from where it puts it.
        let takesNumbers =
            try embryo.values(of: [
                EmbryoCall(
                    Int32(SYS_prctl), [.int(77), .int(1), .int(0), .int(0), .int(0)], on: "timer numbers",
                    mustSucceed: false)
            ]).first == 0
        for timer in timers.sorted(by: { $0.id < $1.id }) {
            if takesNumbers { try make(timer, in: embryo) } else { try makeByCounting(timer, in: embryo) }
            if timer.isArmed { try arm(timer, in: embryo) }
        }
        if takesNumbers {
            try embryo.call(Int32(SYS_prctl), .int(77), .int(0), .int(0), .int(0), .int(0), on: "timer numbers")
        }
    }

    private static func make(_ timer: PosixTimerImage, in embryo: any EmbryoPort) throws(KernelError) {
        // The number is read from, and written to, the word behind the sigevent in the same scratch memory.
        let number = try create(timer, in: embryo)
        guard number == timer.id else {
            throw KernelError(call: "timer_create", object: "number \(timer.id), not \(number)", code: .exists)
        }
    }

    /// Numbers are given in ascending order from 0, one after another, kernel/time/posix-timers.c posix_timer_add().
    private static func makeByCounting(_ timer: PosixTimerImage, in embryo: any EmbryoPort) throws(KernelError) {
        while true {
            let number = try create(timer, in: embryo)
            if number == timer.id { return }
            try embryo.call(Int32(SYS_timer_delete), .int(number), on: "timer \(number)")
            guard number < timer.id else {
                throw KernelError(call: "timer_create", object: "number \(timer.id), not \(number)", code: .exists)
            }
        }
    }

    /// timer_create(2) with a `struct sigevent` of 64 bytes; the number that the timer has got.
    private static func create(_ timer: PosixTimerImage, in embryo: any EmbryoPort) throws(KernelError) -> Int32 {
        var event: [UInt8] = []
        append(timer.value, to: &event)
        append(timer.signal, to: &event)
        append(timer.notification, to: &event)
        append(timer.thread, to: &event)
        event += [UInt8](repeating: 0, count: 64 - event.count)
        var number: [UInt8] = []
        append(timer.id, to: &number)
        let result = try embryo.call(
            Int32(SYS_timer_create), .int(timer.clock), .bytes(event), .exchange(number), on: "timer \(timer.id)")
        guard let output = result.outputs.first, output.count == 4 else { return -1 }
        return output.withUnsafeBytes { $0.loadUnaligned(as: Int32.self) }
    }

    private static func arm(_ timer: PosixTimerImage, in embryo: any EmbryoPort) throws(KernelError) {
        // One that should have gone off does so at once; zero would disarm it.
        let next = max(1, timer.next)
        var setting: [UInt8] = []
        for nanoseconds in [timer.interval, next] {
            append(nanoseconds / 1_000_000_000, to: &setting)
            append(nanoseconds % 1_000_000_000, to: &setting)
        }
        // TIMER_ABSTIME.
        try embryo.call(
            Int32(SYS_timer_settime), .int(timer.id), .int(timer.isAbsolute ? 1 : 0), .bytes(setting), .int(0),
            on: "timer \(timer.id)")
    }

    private static func append<Value: FixedWidthInteger>(_ value: Value, to bytes: inout [UInt8]) {
        withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
    }
}

/// The clock of a process' or a thread's CPU time, which the number names, include/linux/posix-timers_types.h: the
/// complement of the pid shifted by three, 4 for a thread, and 2 for the time that the scheduler counts.
struct CPUClock {
    /// 0 is the process itself.
    let pid: Int32
    let isOfThread: Bool

    /// Nil for what cannot be read from outside: other measures of time, a clock device, the thread that made a timer.
    init?(_ clock: Int32) {
        guard clock < 0, clock & 3 == 2 else { return nil }
        pid = ~(clock >> 3)
        isOfThread = clock & 4 != 0
        if pid == 0 && isOfThread { return nil }
    }

    /// Nanoseconds of CPU time, as a process `owner` that has the clock would read it.
    func read(of owner: Int32) throws(KernelError) -> Int64 {
        if isOfThread {
            let file = "/proc/\(owner)/task/\(pid)/schedstat"
            let words = try Files.readText(file).split(separator: " ")
            return words.first.flatMap { Int64($0) } ?? 0
        }
        var time = timespec()
        let clock = ~(pid == 0 ? owner : pid) << 3 | 2
        try systemCall("clock_gettime", on: "CPU clock of process \(pid == 0 ? owner : pid)") {
            clock_gettime(clock, &time)
        }
        return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
    }
}
