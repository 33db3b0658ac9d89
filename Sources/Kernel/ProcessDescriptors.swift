import CKernel
import Glibc

/// Descriptors of other processes: pidfd_open(2) and pidfd_getfd(2).
public enum ProcessDescriptors {
    /// Our own copy of descriptor `number` of process `pid`; needs PTRACE_MODE_ATTACH, and stops nobody.
    public static func take(pid: Int32, number: Int32) throws(KernelError) -> FileDescriptor {
        let process = FileDescriptor(
            owning: Int32(
                try systemCall("pidfd_open", on: "pid \(pid)") {
                    ck_syscall(Int(SYS_pidfd_open), Int(pid), 0, 0, 0, 0, 0)
                }))
        let raw = process.raw
        let copy = try systemCall("pidfd_getfd", on: "pid \(pid) fd \(number)") {
            ck_syscall(Int(SYS_pidfd_getfd), Int(raw), Int(number), 0, 0, 0, 0)
        }
        return FileDescriptor(owning: Int32(copy))
    }
}
