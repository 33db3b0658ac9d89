import CKernel
import Glibc

/// `struct clone_args` of clone3(2), as bytes that another process may be given.
public struct CloneArguments: Sendable {
    public static let size = 88
    public static let vm: UInt64 = 0x100, fs: UInt64 = 0x200, files: UInt64 = 0x400, sighand: UInt64 = 0x800
    public static let pidfd: UInt64 = 0x1000, parent: UInt64 = 0x8000, thread: UInt64 = 0x10000
    public static let sysvsem: UInt64 = 0x40000, clearSighand: UInt64 = 1 << 32, intoCgroup: UInt64 = 1 << 33

    public var flags: UInt64 = 0
    /// Address at which the kernel stores the pidfd (with `pidfd`).
    public var pidfdAddress: UInt64 = 0
    public var exitSignal: UInt64 = 0
    public var stack: UInt64 = 0
    public var stackSize: UInt64 = 0
    /// Address of an array of pids, one for each nested namespace, and its length.
    public var setTid: UInt64 = 0
    public var setTidSize: UInt64 = 0
    public var cgroup: UInt64 = 0

    public init() {}

    public var words: [UInt64] {
        [flags, pidfdAddress, 0, 0, exitSignal, stack, stackSize, 0, setTid, setTidSize, cgroup]
    }
}

/// The end of a process.
extension Pidfd {
    /// True when the process has ended within `milliseconds`.
    public func hasEnded(milliseconds: Int32 = 0) -> Bool {
        var entry = pollfd(fd: descriptor.raw, events: Int16(POLLIN), revents: 0)
        return poll(&entry, 1, milliseconds) > 0
    }

    /// Reaps the process when it is a child of ours that has ended; false when it is not our child.
    @discardableResult
    public func reap() -> Bool { waitpid(pid, nil, 0x4000_0000 /* __WALL */ | WNOHANG) == pid }
}

extension ProcessMemory {
    /// pwrite(2) to /proc/PID/mem, which also reaches pages the process itself may not write.
    public static func force(pid: Int32, address: UInt64, _ bytes: UnsafeRawBufferPointer) throws(KernelError) {
        let file = try FileDescriptor.open("/proc/\(pid)/mem", O_RDWR)
        try file.writeAll(bytes, at: Int64(bitPattern: address))
    }
}

/// Limits of another process, prlimit(2); `UInt64.max` is unlimited.
public enum ProcessLimit {
    public static func set(_ pid: Int32, _ resource: Int32, soft: UInt64, hard: UInt64) throws(KernelError) {
        var value = [soft, hard]
        try systemCall("prlimit", on: "pid \(pid) resource \(resource)") {
            value.withUnsafeMutableBytes {
                ck_syscall(Int(SYS_prlimit64), Int(pid), Int(resource), Int(bitPattern: $0.baseAddress), 0, 0, 0)
            }
        }
    }

    public static func get(_ pid: Int32, _ resource: Int32) throws(KernelError) -> (soft: UInt64, hard: UInt64) {
        var value: [UInt64] = [0, 0]
        try systemCall("prlimit", on: "pid \(pid) resource \(resource)") {
            value.withUnsafeMutableBytes {
                ck_syscall(Int(SYS_prlimit64), Int(pid), Int(resource), 0, Int(bitPattern: $0.baseAddress), 0, 0)
            }
        }
        return (value[0], value[1])
    }
}

extension FileDescriptor {
    /// pwrite(2) until all of `bytes` are written at `offset`.
    public func writeAll(_ bytes: UnsafeRawBufferPointer, at offset: Int64) throws(KernelError) {
        var done = 0
        while done < bytes.count {
            done += try systemCall("pwrite", on: "fd \(raw)") {
                Glibc.pwrite(raw, bytes.baseAddress! + done, bytes.count - done, Int(offset) + done)
            }
        }
    }
}
