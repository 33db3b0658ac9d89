import Glibc
import Kernel

/// System calls that the freezer ends with EINTR although no signal is handled, signal(7). The application must not
/// see it: moved threads enter the call again at the destination, and those that are thawed here do so by `restart`.
public enum InterruptedCalls {
    /// read, write, readv, writev, connect, accept, sendto, recvfrom, sendmsg, recvmsg, semop, semtimedop, epoll_wait,
    /// io_getevents, rt_sigtimedwait, epoll_pwait, accept4, recvmmsg, sendmmsg, io_pgetevents, epoll_pwait2.
    static let hidden: Set<UInt64> = [
        0, 1, 19, 20, 42, 43, 44, 45, 46, 47, 65, 220, 232, 208, 128, 281, 288, 299, 307, 333, 441,
    ]
    /// EINTR, as the register holds it.
    static let interrupted = UInt64(bitPattern: -4)
    /// ERESTARTNOHAND: entered again unless a handler is to run, which then sees EINTR.
    static let restartUnlessHandled = UInt64(bitPattern: -514)

    /// Makes the threads of `cgroup`, which is frozen, enter such calls again once it is thawed. A thread under ptrace
    /// stays where it is in a frozen group (kernel/cgroup/freezer.c). Threads that end meanwhile are none of ours.
    public static func restart(in cgroup: Cgroup) throws(KernelError) {
        for pid in try cgroup.ownProcesses() {
            for name in (try? Files.list("/proc/\(pid)/task")) ?? [] {
                guard let tid = Int32(name), waits(pid, tid) else { continue }
                do throws(KernelError) { try restart(tid) } catch  where error.code == .noProcess {}
            }
        }
    }

    /// Whether the thread is in one of the calls, by the number alone: proc_pid_syscall(5).
    private static func waits(_ pid: Int32, _ tid: Int32) -> Bool {
        guard let text = try? Files.readText("/proc/\(pid)/task/\(tid)/syscall"),
            let number = text.split(separator: " ").first.flatMap({ UInt64($0) })
        else { return false }
        return hidden.contains(number)
    }

    private static func restart(_ tid: Int32) throws(KernelError) {
        try Ptrace.seize(tid, options: 0)
        try Ptrace.interrupt(tid)
        try Ptrace.awaitStop(tid)
        defer { try? Ptrace.detach(tid) }
        var registers = try Ptrace.readSet(tid, Ptrace.registers)
        let place = ThreadCapture.ax * 8
        let result = registers.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: place, as: UInt64.self) }
        guard result == interrupted else { return }
        withUnsafeBytes(of: restartUnlessHandled) { registers.replaceSubrange(place..<place + 8, with: $0) }
        try Ptrace.writeSet(tid, Ptrace.registers, registers)
    }
}
