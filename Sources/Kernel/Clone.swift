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

/// Processes by pidfd, pidfd_open(2), and what one process may do to another.
public enum Pidfd {
    public static func open(_ pid: Int32) throws(KernelError) -> FileDescriptor {
        let raw = try systemCall("pidfd_open", on: "pid \(pid)") {
            ck_syscall(Int(SYS_pidfd_open), Int(pid), 0, 0, 0, 0, 0)
        }
        return FileDescriptor(owning: Int32(raw))
    }

    /// pidfd_getfd(2): our own copy of descriptor `number` of the process.
    public static func take(
        _ number: Int32, from pidfd: borrowing FileDescriptor, pid: Int32
    ) throws(KernelError) -> FileDescriptor {
        let raw = pidfd.raw
        let result = try systemCall("pidfd_getfd", on: "pid \(pid) fd \(number)") {
            ck_syscall(Int(SYS_pidfd_getfd), Int(raw), Int(number), 0, 0, 0, 0)
        }
        return FileDescriptor(owning: Int32(result))
    }

    /// pidfd_send_signal(2).
    public static func signal(_ signal: Int32, to pidfd: borrowing FileDescriptor, pid: Int32) throws(KernelError) {
        let raw = pidfd.raw
        try systemCall("pidfd_send_signal", on: "pid \(pid)") {
            ck_syscall(Int(SYS_pidfd_send_signal), Int(raw), Int(signal), 0, 0, 0, 0)
        }
    }

    /// True when the process has ended within `milliseconds`.
    public static func hasEnded(_ pidfd: borrowing FileDescriptor, milliseconds: Int32 = 0) -> Bool {
        var entry = pollfd(fd: pidfd.raw, events: Int16(POLLIN), revents: 0)
        return poll(&entry, 1, milliseconds) > 0
    }

    /// Reaps a child of ours that has ended; false when it is not our child.
    @discardableResult
    public static func reap(_ pid: Int32) -> Bool { waitpid(pid, nil, 0x4000_0000 /* __WALL */) == pid }
}

/// Memory and limits of another process.
public enum ProcessMemory {
    /// process_vm_writev(2); all of `bytes`.
    public static func write(_ bytes: UnsafeRawBufferPointer, to pid: Int32, at address: UInt64) throws(KernelError) {
        var done = 0
        while done < bytes.count {
            var local = iovec(
                iov_base: UnsafeMutableRawPointer(mutating: bytes.baseAddress! + done), iov_len: bytes.count - done)
            var remote = iovec(
                iov_base: UnsafeMutableRawPointer(bitPattern: UInt(address) + UInt(done)), iov_len: bytes.count - done)
            done += try systemCall("process_vm_writev", on: "pid \(pid) 0x\(String(address, radix: 16))") {
                process_vm_writev_(pid, &local, &remote)
            }
        }
    }

    /// pwrite(2) to /proc/PID/mem, which also reaches pages the process itself may not write.
    public static func force(_ bytes: UnsafeRawBufferPointer, to pid: Int32, at address: UInt64) throws(KernelError) {
        let file = try FileDescriptor.open("/proc/\(pid)/mem", O_RDWR)
        try file.writeAll(bytes, at: Int64(bitPattern: address))
    }

    /// process_vm_readv(2) of exactly `count` bytes.
    public static func read(_ pid: Int32, at address: UInt64, count: Int) throws(KernelError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        let got = try systemCall("process_vm_readv", on: "pid \(pid) 0x\(String(address, radix: 16))") {
            bytes.withUnsafeMutableBytes { buffer in
                var local = iovec(iov_base: buffer.baseAddress, iov_len: count)
                var remote = iovec(iov_base: UnsafeMutableRawPointer(bitPattern: UInt(address)), iov_len: count)
                return ck_syscall(
                    Int(SYS_process_vm_readv), Int(pid), address_(&local), 1, address_(&remote), 1, 0)
            }
        }
        guard got == count else { throw KernelError(call: "process_vm_readv", object: "pid \(pid)", code: .fault) }
        return bytes
    }

    /// prlimit(2): sets one limit.
    public static func setLimit(_ pid: Int32, _ resource: Int32, soft: UInt64, hard: UInt64) throws(KernelError) {
        var value = [soft, hard]
        try systemCall("prlimit", on: "pid \(pid) resource \(resource)") {
            ck_syscall(Int(SYS_prlimit64), Int(pid), Int(resource), value.withUnsafeMutableBytes {
                Int(bitPattern: $0.baseAddress)
            }, 0, 0, 0)
        }
    }

    public static func limit(_ pid: Int32, _ resource: Int32) throws(KernelError) -> (soft: UInt64, hard: UInt64) {
        var value: [UInt64] = [0, 0]
        try systemCall("prlimit", on: "pid \(pid) resource \(resource)") {
            value.withUnsafeMutableBytes {
                ck_syscall(Int(SYS_prlimit64), Int(pid), Int(resource), 0, Int(bitPattern: $0.baseAddress), 0, 0)
            }
        }
        return (value[0], value[1])
    }

    private static func address_(_ pointer: UnsafeMutablePointer<iovec>) -> Int { Int(bitPattern: pointer) }

    private static func process_vm_writev_(
        _ pid: Int32, _ local: UnsafeMutablePointer<iovec>, _ remote: UnsafeMutablePointer<iovec>
    ) -> Int {
        ck_syscall(
            Int(SYS_process_vm_writev), Int(pid), Int(bitPattern: local), 1, Int(bitPattern: remote), 1, 0)
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
