import CKernel
import Glibc

/// ptrace(2) of one thread; every call must come from the thread that seized.
public enum Ptrace {
    public static let exitKill = 0x10_0000
    public static let suspendSeccomp = 0x20_0000
    public static let registers = 1, extendedState = 0x202

    @discardableResult
    private static func call(
        _ request: Int, _ tid: Int32, _ address: Int, _ data: Int, _ what: String
    ) throws(KernelError) -> Int {
        try systemCall("ptrace", on: "tid \(tid) \(what)") {
            ck_syscall(Int(SYS_ptrace), request, Int(tid), address, data, 0, 0)
        }
    }

    public static func seize(_ tid: Int32, options: Int) throws(KernelError) {
        try call(0x4206, tid, 0, options, "PTRACE_SEIZE")
    }
    public static func interrupt(_ tid: Int32) throws(KernelError) { try call(0x4207, tid, 0, 0, "PTRACE_INTERRUPT") }
    public static func resume(_ tid: Int32) throws(KernelError) { try call(7, tid, 0, 0, "PTRACE_CONT") }
    public static func singleStep(_ tid: Int32) throws(KernelError) { try call(9, tid, 0, 0, "PTRACE_SINGLESTEP") }
    public static func detach(_ tid: Int32) throws(KernelError) { try call(17, tid, 0, 0, "PTRACE_DETACH") }

    /// Waits until the thread is in a ptrace stop; its wait status. ESRCH when it ended instead.
    @discardableResult
    public static func awaitStop(_ tid: Int32) throws(KernelError) -> Int32 {
        var status: Int32 = 0
        var looks = 0
        // A process that was killed is not reported as long as other threads of it are traced and not reaped.
        while try systemCall(
            "wait4", on: "tid \(tid)", { waitpid(tid, &status, 0x4000_0000 /* __WALL */ | WNOHANG) }) == 0
        {
            looks += 1
            if looks % 1000 == 0, isZombie(tid) {
                throw KernelError(call: "wait4", object: "tid \(tid)", code: .noProcess)
            }
            sched_yield()
        }
        guard status & 0xff == 0x7f else { throw KernelError(call: "wait4", object: "tid \(tid)", code: .noProcess) }
        return status
    }

    private static func isZombie(_ tid: Int32) -> Bool {
        guard let text = try? Files.readText("/proc/\(tid)/stat"), let end = text.lastIndex(of: ")") else {
            return true
        }
        return ["Z", "X"].contains(text[text.index(after: end)...].drop { $0 == " " }.prefix(1))
    }

    /// Waits until a thread that was killed has ended, and reaps it as its tracer: a traced thread other than the
    /// leader stays a zombie until then, and its process cannot end before.
    public static func awaitEnd(_ tid: Int32) {
        var status: Int32 = 0
        repeat {
            do throws(KernelError) {
                try systemCall("wait4", on: "tid \(tid)") { waitpid(tid, &status, 0x4000_0000 /* __WALL */) }
            } catch {
                return
            }
        } while status & 0xff == 0x7f
    }

    /// A call whose data argument points to `bytes`.
    private static func transfer(
        _ request: Int, _ tid: Int32, _ address: Int, _ bytes: inout [UInt8], _ what: String
    ) throws(KernelError) -> Int {
        try systemCall("ptrace", on: "tid \(tid) \(what)") {
            bytes.withUnsafeMutableBytes {
                ck_syscall(Int(SYS_ptrace), request, Int(tid), address, Int(bitPattern: $0.baseAddress), 0, 0)
            }
        }
    }

    /// A call whose data argument points to an iovec over `bytes`; the length the kernel left in it.
    private static func regset(
        _ request: Int, _ tid: Int32, _ set: Int, _ bytes: inout [UInt8], _ what: String
    ) throws(KernelError) -> Int {
        var count = 0
        try systemCall("ptrace", on: "tid \(tid) \(what) \(set)") {
            bytes.withUnsafeMutableBytes { buffer in
                var vector = iovec(iov_base: buffer.baseAddress, iov_len: buffer.count)
                let result = withUnsafeMutablePointer(to: &vector) {
                    ck_syscall(Int(SYS_ptrace), request, Int(tid), set, Int(bitPattern: $0), 0, 0)
                }
                count = vector.iov_len
                return result
            }
        }
        return count
    }

    /// PTRACE_GETREGSET of `registers` (NT_PRSTATUS) or `extendedState` (NT_X86_XSTATE).
    public static func readSet(_ tid: Int32, _ set: Int, limit: Int = 16384) throws(KernelError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: limit)
        let count = try regset(0x4204, tid, set, &bytes, "PTRACE_GETREGSET")
        return Array(bytes.prefix(count))
    }

    /// PTRACE_SETREGSET.
    public static func writeSet(_ tid: Int32, _ set: Int, _ content: [UInt8]) throws(KernelError) {
        var bytes = content
        _ = try regset(0x4205, tid, set, &bytes, "PTRACE_SETREGSET")
    }

    /// PTRACE_GETSIGMASK: the real mask, also inside sigsuspend and ppoll.
    public static func blockedSignals(_ tid: Int32) throws(KernelError) -> UInt64 {
        var bytes = [UInt8](repeating: 0, count: 8)
        _ = try transfer(0x420a, tid, 8, &bytes, "PTRACE_GETSIGMASK")
        return bytes.withUnsafeBytes { $0.load(as: UInt64.self) }
    }

    public static func setBlockedSignals(_ tid: Int32, _ mask: UInt64) throws(KernelError) {
        var bytes = withUnsafeBytes(of: mask) { Array($0) }
        _ = try transfer(0x420b, tid, 8, &bytes, "PTRACE_SETSIGMASK")
    }

    /// PTRACE_SECCOMP_GET_METADATA: SECCOMP_FILTER_FLAG_… of filter `index`.
    public static func seccompFlags(_ tid: Int32, _ index: Int) throws(KernelError) -> UInt64 {
        // struct seccomp_metadata: filter_off, flags.
        var bytes = withUnsafeBytes(of: UInt64(index)) { Array($0) } + [UInt8](repeating: 0, count: 8)
        _ = try transfer(0x420d, tid, 16, &bytes, "PTRACE_SECCOMP_GET_METADATA")
        return bytes.withUnsafeBytes { $0.load(fromByteOffset: 8, as: UInt64.self) }
    }

    /// PTRACE_SECCOMP_GET_FILTER: filter `index`, 0 the oldest, as `struct sock_filter` array; nil behind the last.
    public static func seccompFilter(_ tid: Int32, _ index: Int) throws(KernelError) -> [UInt8]? {
        do throws(KernelError) {
            let count = try call(0x420c, tid, index, 0, "PTRACE_SECCOMP_GET_FILTER")
            var bytes = [UInt8](repeating: 0, count: count * 8)
            _ = try transfer(0x420c, tid, index, &bytes, "PTRACE_SECCOMP_GET_FILTER")
            return bytes
        } catch  where error.code == .noEntry {
            return nil
        }
    }
}
