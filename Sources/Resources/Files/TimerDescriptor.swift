import CKernel
import Glibc
import Kernel
import ProcessImage

/// timerfd_create(2). Time goes on while the service is frozen, so the remaining time shrinks by the frozen time.
enum TimerDescriptor: DescriptorKind {
    struct Record: Codable {
        var clock: Int32
        /// Expirations that nobody has read yet.
        var ticks: UInt64
        /// timerfd_settime flags: TFD_TIMER_ABSTIME = 1, TFD_TIMER_CANCEL_ON_SET = 2.
        var flags: Int32
        /// Nanoseconds; `remaining` 0 means disarmed.
        var remaining: Int64
        var interval: Int64
    }
    static let name = "timerfd"

    static func recognises(_ probe: DescriptorProbe) -> Bool { probe.link == "anon_inode:[timerfd]" }

    static func check(_ probe: DescriptorProbe, in context: CheckContext) -> [Refusal] {
        guard let record = try? record(probe),
            record.clock == CLOCK_REALTIME_ALARM || record.clock == CLOCK_BOOTTIME_ALARM
        else { return [] }
        return [
            probe.refusal(
                "is a timer that wakes the machine (clock \(record.clock))",
                remedy: "use CLOCK_REALTIME or CLOCK_BOOTTIME in the service")
        ]
    }

    /// `(seconds, nanoseconds)` of fdinfo in nanoseconds.
    private static func pair(_ text: String?) -> Int64? {
        guard let text else { return nil }
        let numbers = text.split(whereSeparator: { !$0.isNumber && $0 != "-" }).compactMap { Int64($0) }
        guard numbers.count == 2 else { return nil }
        return numbers[0] * 1_000_000_000 + numbers[1]
    }

    private static func record(_ probe: DescriptorProbe) throws(ResourceError) -> Record {
        guard let clock = probe.detail("clockid").flatMap({ Int32($0) }) else { throw probe.malformed("clockid") }
        guard let ticks = probe.detail("ticks").flatMap({ UInt64($0) }) else { throw probe.malformed("ticks") }
        // "settime flags: 01" is octal, fs/timerfd.c timerfd_show().
        let flags = probe.detail("settime flags").flatMap { Int32($0, radix: 8) } ?? 0
        guard let remaining = pair(probe.detail("it_value")) else { throw probe.malformed("it_value") }
        guard let interval = pair(probe.detail("it_interval")) else { throw probe.malformed("it_interval") }
        return Record(clock: clock, ticks: ticks, flags: flags, remaining: remaining, interval: interval)
    }

    static func capture(_ probe: DescriptorProbe, in context: any CaptureContext) throws(ResourceError) -> Bytes {
        try Payload.encode(try record(probe), for: probe.subject)
    }

    static func restore(
        _ description: DescriptionImage, index: Int32, in embryo: any EmbryoPort, context: any RestoreContext
    ) throws(ResourceError) -> Int32 {
        let record = try Payload.decode(Record.self, from: description, index: index)
        let subject = "pid \(embryo.pid) timerfd"
        return try step(subject, "cannot be made") { () throws(KernelError) in
            let flags = description.statusFlags & O_NONBLOCK
            let number = try embryo.call(SYS_timerfd_create, .int(record.clock), .int(flags), on: subject).value
            if record.remaining > 0 || record.interval > 0 {
                try arm(record, number: number, in: embryo, context: context, subject: subject)
            }
            if record.ticks > 0 {
                // _IOW('T', 0, __u64) TFD_IOC_SET_TICKS, include/linux/timerfd.h: made for checkpointing.
                let ticks = withUnsafeBytes(of: record.ticks.littleEndian) { Array($0) }
                try embryo.call(SYS_ioctl, .int(number), .int(0x4008_5400), .bytes(ticks), on: subject)
            }
            return Int32(number)
        }
    }

    private static func arm(
        _ record: Record, number: Int, in embryo: any EmbryoPort, context: any RestoreContext, subject: String
    ) throws(KernelError) {
        var value = max(1, record.remaining - context.frozenNanoseconds)
        var flags: Int32 = 0
        if record.clock == CLOCK_REALTIME && record.flags & 1 != 0 {
            // An absolute time of day stays that time of day, whatever the two hosts' clocks differ by.
            value = context.image.clocks.realtime + record.remaining
            flags = record.flags
        }
        let specification = [record.interval, value].flatMap { nanoseconds in
            [nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000].flatMap { part in
                withUnsafeBytes(of: part.littleEndian) { Array($0) }
            }
        }
        try embryo.call(
            SYS_timerfd_settime, .int(number), .int(flags), .bytes(specification), .int(0), on: subject)
    }
}
