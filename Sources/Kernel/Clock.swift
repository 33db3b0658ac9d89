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

    /// CLOCK_MONOTONIC of the initial time namespace, which BPF programs read (bpf_ktime_get_ns) whatever namespace
    /// this process is in; time_namespaces(7).
    public static var kernelMonotonic: Int64 { monotonic - monotonicOffset }

    private static let monotonicOffset: Int64 = {
        // Without time namespaces there is no such file, and no offset.
        for line in ((try? Files.readText("/proc/self/timens_offsets")) ?? "").split(separator: "\n") {
            let words = line.split { $0 == " " || $0 == "\t" }
            if words.first == "monotonic", words.count == 3, let seconds = Int64(words[1]), let rest = Int64(words[2]) {
                return seconds * 1_000_000_000 + rest
            }
        }
        return 0
    }()
}
