import CKernel
import Glibc
import Kernel
import Synchronization

/// A running child process, owned through its pidfd: it can be awaited and signalled, never mistaken for another.
public final class LabProcess: Sendable {
    /// The process id as the lab's own pid namespace numbers it.
    public let pid: Int32
    /// The command line, for messages.
    public let command: String
    /// The file that takes standard output; nil when it was inherited.
    public let outputPath: String?
    /// The file that takes standard error; nil when it was inherited.
    public let errorPath: String?

    private let pidfd: FileDescriptor
    private let ended = Mutex<ExitStatus?>(nil)
    /// nsenter(1) forks when it enters a pid namespace: the command is then its child.
    private let commandIsChild: Bool

    init(pid: Int32, command: String, outputPath: String?, errorPath: String?, commandIsChild: Bool)
        throws(KernelError)
    {
        self.pid = pid
        self.command = command
        self.outputPath = outputPath
        self.errorPath = errorPath
        self.commandIsChild = commandIsChild
        pidfd = try ProcessHandle.open(pid)
    }

    /// True until the process has ended.
    public var isRunning: Bool { (try? poll(milliseconds: 0)) == false }

    /// Waits for the end; throws when `timeout` has passed first. The process then runs on.
    @discardableResult
    public func wait(timeout: Duration = .seconds(60)) throws -> ExitStatus {
        guard try poll(milliseconds: timeout.milliseconds) else {
            throw LabError("`\(command)` has not ended within \(timeout)")
        }
        return try ended.withLock { known throws(KernelError) in
            if let known { return known }
            var status: Int32 = 0
            try systemCall("waitpid", on: "pid \(pid)") { waitpid(pid, &status, 0) }
            let result = ExitStatus(waitStatus: status)
            known = result
            return result
        }
    }

    /// Sends a signal to the command itself, not to the nsenter(1) that started it.
    public func signal(_ number: Int32) throws {
        guard commandIsChild else { return try ProcessHandle.signal(pidfd, number, object: "pid \(pid)") }
        let children = try Files.readText("/proc/\(pid)/task/\(pid)/children").words.compactMap { Int32($0) }
        for child in children {
            try ProcessHandle.signal(ProcessHandle.open(child), number, object: "pid \(child)")
        }
        if children.isEmpty { try ProcessHandle.signal(pidfd, number, object: "pid \(pid)") }
    }

    /// Ends the command with SIGKILL and reaps it; does nothing when it has ended already.
    public func kill() {
        if isRunning { try? signal(SIGKILL) }
        _ = try? wait(timeout: .seconds(5))
    }

    /// Standard output so far.
    public var output: String { outputPath.flatMap { try? Files.readText($0) } ?? "" }
    /// Standard error so far.
    public var errorOutput: String { errorPath.flatMap { try? Files.readText($0) } ?? "" }

    private func poll(milliseconds: Int32) throws(KernelError) -> Bool {
        if ended.withLock({ $0 != nil }) { return true }
        var entry = pollfd(fd: pidfd.raw, events: Int16(POLLIN), revents: 0)
        return try systemCall("poll", on: "pid \(pid)") { Glibc.poll(&entry, 1, milliseconds) } > 0
    }
}

/// pidfd_open(2) and pidfd_send_signal(2).
enum ProcessHandle {
    static func open(_ pid: Int32) throws(KernelError) -> FileDescriptor {
        let raw = try systemCall("pidfd_open", on: "pid \(pid)") {
            ck_syscall(Int(SYS_pidfd_open), Int(pid), 0, 0, 0, 0, 0)
        }
        return FileDescriptor(owning: Int32(raw))
    }

    static func signal(
        _ handle: borrowing FileDescriptor, _ number: Int32, object: String
    ) throws(KernelError) {
        let raw = handle.raw
        try systemCall("pidfd_send_signal", on: object) {
            ck_syscall(Int(SYS_pidfd_send_signal), Int(raw), Int(number), 0, 0, 0, 0)
        }
    }

    /// When the process started, in clock ticks since boot, field 22 of proc_pid_stat(5); nil when there is none.
    /// Together with the pid it names one process for good.
    static func startTime(_ pid: Int32) -> UInt64? {
        guard let stat = try? Files.readText("/proc/\(pid)/stat"), let close = stat.lastIndex(of: ")") else {
            return nil
        }
        let fields = String(stat[stat.index(after: close)...]).words
        guard fields.count > 19, fields[0] != "Z" else { return nil }
        return UInt64(fields[19])
    }
}

extension Duration {
    /// Whole milliseconds, rounded up, as poll(2) takes them.
    var milliseconds: Int32 {
        let (seconds, attoseconds) = components
        return Int32(clamping: seconds * 1000 + (attoseconds + 999_999_999_999_999) / 1_000_000_000_000_000)
    }
}
