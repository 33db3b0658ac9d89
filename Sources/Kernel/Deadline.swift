import CKernel
import Glibc

/// A point on CLOCK_MONOTONIC up to which a wait may last.
///
/// Absolute, so that a sequence of waits shares one budget however it is cut up.
public struct Deadline: Sendable, Hashable, Comparable, CustomStringConvertible {
    /// Nanoseconds of CLOCK_MONOTONIC; `Int64.max` waits for ever.
    public let nanoseconds: Int64

    public init(monotonicNanoseconds: Int64) { nanoseconds = monotonicNanoseconds }

    /// Never passes.
    public static let never = Deadline(monotonicNanoseconds: .max)

    /// `milliseconds` from now.
    public static func after(milliseconds: Int64) -> Deadline {
        let (span, tooLong) = milliseconds.multipliedReportingOverflow(by: 1_000_000)
        if tooLong { return .never }
        let (end, tooLate) = Clock.monotonic.addingReportingOverflow(span)
        return tooLate ? .never : Deadline(monotonicNanoseconds: end)
    }

    public static func < (left: Deadline, right: Deadline) -> Bool { left.nanoseconds < right.nanoseconds }

    public var hasPassed: Bool { self != .never && Clock.monotonic >= nanoseconds }

    /// What poll(2) takes: milliseconds rounded up, 0 when passed, -1 for never.
    public var pollTimeout: Int32 {
        if self == .never { return -1 }
        let left = nanoseconds - Clock.monotonic
        if left <= 0 { return 0 }
        return Int32(min((left + 999_999) / 1_000_000, Int64(Int32.max)))
    }

    public var description: String { self == .never ? "never" : "\(nanoseconds) ns monotonic" }
}

/// poll(2) on one descriptor.
public enum Poll {
    /// Waits for `events` on `descriptor`; returns the events found, or nil when the deadline passed first.
    /// POLLERR and POLLHUP are reported as found, whether asked for or not.
    public static func wait(
        _ descriptor: Int32, for events: Int32, until deadline: Deadline
    ) throws(KernelError) -> Int32? {
        var entry = pollfd(fd: descriptor, events: Int16(truncatingIfNeeded: events), revents: 0)
        while true {
            // The timeout is taken anew at each turn: a wait longer than poll can express comes back early.
            let found = try systemCall("poll", on: "fd \(descriptor)") { poll(&entry, 1, deadline.pollTimeout) }
            if found > 0 { return Int32(entry.revents) }
            if deadline.hasPassed { return nil }
        }
    }
}

extension Poll {
    /// Lets `milliseconds` pass; for loops that ask a kernel file which cannot be polled.
    public static func pause(milliseconds: Int32) throws(KernelError) {
        try systemCall("poll") { poll(nil, 0, milliseconds) }
    }
}
