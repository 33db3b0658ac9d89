import CKernel
import Glibc

/// Readings of the kernel's clocks, clock_gettime(2), in nanoseconds, as this process's time namespace shows them.
public enum Clock {
    public static func nanoseconds(_ clock: clockid_t) -> Int64 {
        var time = timespec()
        clock_gettime(clock, &time)
        return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
    }

    public static var monotonic: Int64 { nanoseconds(CLOCK_MONOTONIC) }
    public static var boottime: Int64 { nanoseconds(CLOCK_BOOTTIME) }
    public static var realtime: Int64 { nanoseconds(CLOCK_REALTIME) }
}
