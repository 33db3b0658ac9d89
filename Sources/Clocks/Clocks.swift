import CKernel
import Glibc
import Kernel
import ProcessImage

/// The clocks of the service, time_namespaces(7).
public enum ServiceClocks {
    /// Offsets of a time namespace against the initial one, nanoseconds.
    public struct Offsets: Equatable, Sendable {
        public var monotonic: Int64 = 0
        public var boottime: Int64 = 0
        public init() {}
    }

    /// What the clocks of process `pid` show now.
    public static func read(pid: Int32) throws(KernelError) -> ClockImage {
        let service = try offsets(pid: pid)
        let own = try offsets(pid: getpid())
        var image = ClockImage()
        image.realtime = Clock.realtime
        image.monotonic = Clock.monotonic - own.monotonic + service.monotonic
        image.boottime = Clock.boottime - own.boottime + service.boottime
        return image
    }

    /// /proc/PID/timens_offsets shows the namespace that *children* of `pid` will have; for a process that has not
    /// unshared it is its own.
    static func offsets(pid: Int32) throws(KernelError) -> Offsets {
        let file = "/proc/\(pid)/timens_offsets"
        // A kernel without time namespaces has no offsets.
        guard Files.exists(file) else { return Offsets() }
        return parse(try Files.readText(file))
    }

    static func parse(_ text: String) -> Offsets {
        var result = Offsets()
        for line in text.split(separator: "\n") {
            let words = line.split { $0 == " " || $0 == "\t" }
            guard words.count == 3, let seconds = Int64(words[1]), let nanoseconds = Int64(words[2]) else { continue }
            let value = seconds * 1_000_000_000 + nanoseconds
            if words[0] == "monotonic" { result.monotonic = value }
            if words[0] == "boottime" { result.boottime = value }
        }
        return result
    }
}

/// A time namespace for the arriving service.
public enum TimeNamespace {
    /// Makes a time namespace in which CLOCK_MONOTONIC and CLOCK_BOOTTIME go on from `image`, as if `elapsedRealtime`
    /// nanoseconds had passed since it was taken. Enter it with setns(2) CLONE_NEWTIME while single-threaded.
    public static func create(
        continuing image: ClockImage, elapsedRealtime: Int64
    ) throws(KernelError) -> FileDescriptor {
        let result = try Promise<Result<Int32, KernelError>>()
        // unshare(CLONE_NEWTIME) changes only what the calling thread's children will get, so a thread that ends
        // afterwards leaves this process as it was.
        try BlockingThread.start("time-namespace") {
            do throws(KernelError) {
                result.fulfil(.success(try make(image, elapsedRealtime).release()))
            } catch {
                result.fulfil(.failure(error))
            }
        }
        guard let outcome = result.wait() else {
            throw KernelError(call: "unshare", object: "CLONE_NEWTIME", code: .timedOut)
        }
        return FileDescriptor(owning: try outcome.get())
    }

    private static func make(_ image: ClockImage, _ elapsed: Int64) throws(KernelError) -> FileDescriptor {
        let own = try ServiceClocks.offsets(pid: getpid())
        try systemCall("unshare", on: "CLONE_NEWTIME") {
            ck_syscall(Int(SYS_unshare), Int(CLONE_NEWTIME), 0, 0, 0, 0, 0)
        }
        let monotonic = image.monotonic + elapsed - (Clock.monotonic - own.monotonic)
        let boottime = image.boottime + elapsed - (Clock.boottime - own.boottime)
        // Not in /proc/thread-self; the thread's number names the thread as well as a process.
        let thread = ck_syscall(Int(SYS_gettid), 0, 0, 0, 0, 0, 0)
        try Files.writeControl(
            "/proc/\(thread)/timens_offsets", "monotonic \(line(monotonic))\nboottime \(line(boottime))\n")
        return try FileDescriptor.open("/proc/thread-self/ns/time_for_children", O_RDONLY)
    }

    /// Seconds and a nanosecond part that is never negative, as the kernel wants them.
    private static func line(_ value: Int64) -> String {
        let nanoseconds = ((value % 1_000_000_000) + 1_000_000_000) % 1_000_000_000
        return "\((value - nanoseconds) / 1_000_000_000) \(nanoseconds)"
    }
}

/// The clocks of the initial time namespace, in which the kernel keeps its own times.
public struct HostClocks: Sendable {
    private let own: ServiceClocks.Offsets

    public init() throws(KernelError) { own = try ServiceClocks.offsets(pid: getpid()) }

    /// Nanoseconds now on `clock`.
    public func now(_ clock: Int32) -> Int64 {
        let time = Clock.nanoseconds(clock)
        switch clock {
        case CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_MONOTONIC_COARSE: return time - own.monotonic
        case CLOCK_BOOTTIME, CLOCK_BOOTTIME_ALARM: return time - own.boottime
        default: return time
        }
    }
}
