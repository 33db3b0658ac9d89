import CEmbryo
import CKernel
import Clocks
import Glibc
import Kernel
import ProcessImage
import Resources

/// Word positions in `struct user_regs_struct` of x86-64.
private enum Register {
    static let r10 = 7, r9 = 8, r8 = 9, ax = 10, dx = 12, si = 13, di = 14, originalAx = 15, ip = 16
    static let count = 27
}

/// Operations and flags of futex(2), linux/futex.h.
private enum Futex {
    static let waitBitset: UInt64 = 9
    static let clockRealtime: UInt64 = 256
}

extension ServiceRestore {
    /// Takes every thread under ptrace: should the daemon die now, they die with it.
    func seizeAll() throws(RestoreError) {
        for process in image.processes {
            for thread in process.threads {
                try step(thread.tid, "trace") { () throws(KernelError) in
                    try Ptrace.seize(thread.tid, options: Ptrace.exitKill | Ptrace.suspendSeccomp)
                }
                traced.append(thread.tid)
            }
        }
    }

    /// Stops every thread, removes the loop, and sets registers and signal masks: only letting go is left.
    public func stop() throws(RestoreError) {
        var restarting: [Int32: [UInt64]] = [:]
        for process in image.processes {
            for thread in process.threads where thread.restart != nil {
                restarting[thread.tid] = try enterAgain(thread, process)
            }
        }
        for process in image.processes {
            for thread in process.threads { try halt(thread) }
        }
        for process in image.processes { try removeLoop(process) }
        for process in image.processes {
            for thread in process.threads { try setRegisters(thread, process) }
        }
    }

    /// PTRACE_DETACH: in a frozen cgroup the threads stay where they are until it is thawed.
    public func release() throws(RestoreError) {
        for tid in traced { try step(tid, "let go") { () throws(KernelError) in try Ptrace.detach(tid) } }
        traced = []
    }

    private func words(_ bytes: Bytes, _ tid: Int32) throws(RestoreError) -> [UInt64] {
        guard bytes.content.count == Register.count * 8 else {
            throw .image("thread \(tid) has \(bytes.content.count) bytes of registers")
        }
        return bytes.content.withUnsafeBytes { buffer in
            (0..<Register.count).map { buffer.loadUnaligned(fromByteOffset: $0 * 8, as: UInt64.self) }
        }
    }

    /// Issues the interrupted call once more with the time that was left, so that the kernel has its restart block;
    /// the arguments it was made with.
    private func enterAgain(_ thread: ThreadImage, _ process: ProcessImage) throws(RestoreError) -> [UInt64] {
        guard let restart = thread.restart else { return [] }
        let registers = try words(thread.registers, thread.tid)
        let number = Self.originalCall(registers, restart)
        var arguments: [EmbryoArgument] = [
            Register.di, Register.si, Register.dx, Register.r10, Register.r8, Register.r9,
        ].map { .address(registers[$0]) }
        let passed = try step(thread.tid, "clocks") { () throws(KernelError) in
            try ServiceClocks.read(pid: process.pid).monotonic - image.clocks.monotonic
        }
        // Time went on for the service since its capture.
        let left = max(restart.remaining - max(passed, 0), 0)
        let time = Words([UInt64(left / 1_000_000_000), UInt64(left % 1_000_000_000)])
        switch (restart.kind, number) {
        case (.nanosleep, Int32(SYS_nanosleep)): arguments[0] = .bytes(time.bytes)
        case (.nanosleep, Int32(SYS_clock_nanosleep)): arguments[2] = .bytes(time.bytes)
        case (.poll, Int32(SYS_poll)):
            arguments[2] = .int(restart.remaining < 0 ? -1 : Int((left + 999_999) / 1_000_000))
        case (.futex, Int32(SYS_futex)):
            let operation = registers[Register.si]
            arguments[3] = .bytes(Self.isUntil(operation) ? until(operation, restart.remaining) : time.bytes)
        default:
            throw .image("thread \(thread.tid): call \(number) cannot be entered again as \(restart.kind)")
        }
        let slot = try slot(thread, try member(process.pid))
        slot.post(EmbryoCall(number, arguments, on: "interrupted call", mustSucceed: false))
        let deadline = Clock.monotonic + 100_000_000
        // The call is entered when the kernel says so, or is over already.
        while slot.postedResult == nil, Clock.monotonic < deadline {
            let text = (try? Files.readText("/proc/\(process.pid)/task/\(thread.tid)/syscall")) ?? ""
            if text.hasPrefix("\(number) ") { break }
            sched_yield()
        }
        return registers
    }

    /// The call that the thread is in. One that was interrupted before, by a former move for example, shows as
    /// restart_syscall(2); its arguments are still those of the call that the application made.
    private static func originalCall(_ registers: [UInt64], _ restart: RestartImage) -> Int32 {
        let number = Int32(truncatingIfNeeded: registers[Register.originalAx])
        guard number == Int32(SYS_restart_syscall) else { return number }
        switch restart.kind {
        case .poll: return Int32(SYS_poll)
        case .futex: return Int32(SYS_futex)
        case .nanosleep:
            // The first argument is a clock there and a pointer here. Nothing is mapped in the lowest page, and
            // clocks of other processes, which are negative, are for clock_nanosleep(2) only.
            let isClock = registers[Register.di] < 4096 || restart.clock < 0
            return Int32(isClock ? SYS_clock_nanosleep : SYS_nanosleep)
        }
    }

    /// FUTEX_WAIT takes a duration, FUTEX_WAIT_BITSET and FUTEX_LOCK_PI a moment, futex(2).
    private static func isUntil(_ operation: UInt64) -> Bool { operation & 0x7f == Futex.waitBitset }

    /// The moment `left` nanoseconds after the capture on the clock that the operation names: of the service, in whose
    /// time namespace the call is made.
    private func until(_ operation: UInt64, _ left: Int64) -> [UInt8] {
        let isRealTime = operation & Futex.clockRealtime != 0
        let time = left + (isRealTime ? image.clocks.realtime : image.clocks.monotonic)
        return Words([UInt64(time / 1_000_000_000), UInt64(time % 1_000_000_000)]).bytes
    }

    private func halt(_ thread: ThreadImage) throws(RestoreError) {
        try step(thread.tid, "stop") { () throws(KernelError) in
            try Ptrace.interrupt(thread.tid)
            try Ptrace.awaitStop(thread.tid)
        }
    }

    /// One munmap through the vdso's own `syscall` instruction: the loop cannot remove itself.
    private func removeLoop(_ process: ProcessImage) throws(RestoreError) {
        let embryo = try member(process.pid)
        let kept = embryo.region.kept
        try step(process.pid, "remove the loop") { () throws(KernelError) in
            let instruction = try Self.syscallInstruction(process)
            let saved = try Ptrace.readSet(process.pid, Ptrace.registers)
            var registers = saved.withUnsafeBytes { buffer in
                (0..<Register.count).map { buffer.loadUnaligned(fromByteOffset: $0 * 8, as: UInt64.self) }
            }
            registers[Register.ax] = UInt64(SYS_munmap)
            registers[Register.di] = kept.lowerBound
            registers[Register.si] = kept.upperBound - kept.lowerBound
            registers[Register.ip] = instruction
            registers[Register.originalAx] = .max
            try Ptrace.writeSet(process.pid, Ptrace.registers, Words(registers).bytes)
            try Ptrace.singleStep(process.pid)
            try Ptrace.awaitStop(process.pid)
            let after = try Ptrace.readSet(process.pid, Ptrace.registers)
            let result = after.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: Register.ax * 8, as: Int64.self) }
            if result != 0 {
                throw KernelError(
                    call: "munmap", object: "loop of pid \(process.pid)",
                    code: Errno(rawValue: Int32(truncatingIfNeeded: -result)))
            }
        }
    }

    private static func syscallInstruction(_ process: ProcessImage) throws(KernelError) -> UInt64 {
        guard let vdso = try EmbryoBirth.kernelMappings(of: "\(process.pid)").first(where: { $0.name == "[vdso]" })
        else { throw KernelError(call: "ptrace", object: "pid \(process.pid) has no vdso", code: .noEntry) }
        let size = Int(vdso.range.upperBound - vdso.range.lowerBound)
        let text = try ProcessMemory.read(pid: process.pid, address: vdso.range.lowerBound, count: size)
        for index in 0..<size - 1 where text[index] == 0x0f && text[index + 1] == 0x05 {
            return vdso.range.lowerBound + UInt64(index)
        }
        throw KernelError(call: "ptrace", object: "vdso without a syscall instruction", code: .noEntry)
    }

    private func setRegisters(_ thread: ThreadImage, _ process: ProcessImage) throws(RestoreError) {
        var registers = try words(thread.registers, thread.tid)
        if thread.restart != nil, let result = try slot(thread, try member(process.pid)).postedResult {
            // Over before it could be interrupted: its result is the application's.
            registers[Register.ax] = UInt64(bitPattern: Int64(result))
        }
        leaveRestartableSequence(thread, &registers)
        let bytes = Words(registers).bytes
        try step(thread.tid, "registers") { () throws(KernelError) in
            if !thread.extendedState.content.isEmpty {
                try Ptrace.writeSet(thread.tid, Ptrace.extendedState, thread.extendedState.content)
            }
            try Ptrace.writeSet(thread.tid, Ptrace.registers, bytes)
            try Ptrace.setBlockedSignals(thread.tid, thread.blockedSignals)
        }
    }

    /// Sends a thread caught inside a restartable sequence to its abort handler, as the kernel would have.
    private func leaveRestartableSequence(_ thread: ThreadImage, _ registers: inout [UInt64]) {
        guard let section = sequences[thread.tid] else { return }
        if registers[Register.ip] &- section.start < section.length { registers[Register.ip] = section.abort }
    }

    /// Reads `struct rseq_cs` of a thread; before it registers its area, for then the kernel clears the pointer.
    func noteRestartableSequence(_ thread: ThreadImage, _ pid: Int32) {
        guard thread.rseqAddress != 0,
            let pointer = try? ProcessMemory.read(pid: pid, address: thread.rseqAddress + 8, count: 8)
        else { return }
        let address = pointer.withUnsafeBytes { $0.loadUnaligned(as: UInt64.self) }
        guard address != 0, let bytes = try? ProcessMemory.read(pid: pid, address: address, count: 32) else { return }
        let words = bytes.withUnsafeBytes { buffer in
            [8, 16, 24].map { buffer.loadUnaligned(fromByteOffset: $0, as: UInt64.self) }
        }
        sequences[thread.tid] = (words[0], words[1], words[2])
    }
}
