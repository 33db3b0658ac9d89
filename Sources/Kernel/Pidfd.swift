import CKernel
import Glibc

/// A process held by descriptor, pidfd_open(2): its number cannot be reused behind our back.
public struct Pidfd: ~Copyable, Sendable {
    public let pid: Int32
    public let descriptor: FileDescriptor

    public init(pid: Int32) throws(KernelError) {
        self.pid = pid
        let raw = try systemCall("pidfd_open", on: "pid \(pid)") {
            ck_syscall(Int(SYS_pidfd_open), Int(pid), 0, 0, 0, 0, 0)
        }
        descriptor = FileDescriptor(owning: Int32(raw))
    }

    /// pidfd_getfd(2): our own copy of its descriptor `number`.
    public func take(_ number: Int32) throws(KernelError) -> FileDescriptor {
        let raw = descriptor.raw
        let copy = try systemCall("pidfd_getfd", on: "pid \(pid) fd \(number)") {
            ck_syscall(Int(SYS_pidfd_getfd), Int(raw), Int(number), 0, 0, 0, 0)
        }
        return FileDescriptor(owning: Int32(copy))
    }

    /// pidfd_send_signal(2).
    public func signal(_ number: Int32) throws(KernelError) {
        let raw = descriptor.raw
        try systemCall("pidfd_send_signal", on: "pid \(pid)") {
            ck_syscall(Int(SYS_pidfd_send_signal), Int(raw), Int(number), 0, 0, 0, 0)
        }
    }
}
