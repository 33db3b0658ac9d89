import CKernel
import Clocks
import Glibc
import Kernel
import KernelCapture
import ProcessImage
import Resources

/// Turns what the kernel says of a frozen thread into what the destination sets.
struct ThreadCapture {
    /// Indices into `struct user_regs_struct`.
    static let ax = 10, origAx = 15, ip = 16

    /// CLOCK_MONOTONIC and CLOCK_BOOTTIME of the initial time namespace, by which the kernel's own times are meant.
    let clocks: HostClocks

    func image(of thread: ThreadRecord) throws(ResourceError) -> ThreadImage {
        var image = ThreadImage(tid: thread.tid, name: thread.name)
        var registers = thread.registers
        let subject = "thread \(thread.tid) (\(thread.name))"
        guard registers.count == 27 else { throw ResourceError(subject, "\(registers.count) registers") }
        try abortRestartableSequence(thread, &registers, subject)
        image.restart = try repairSystemCall(thread, &registers, subject)
        image.registers = Self.bytes(registers)
        guard let state = ExtendedState.current.standard(thread.xsave) else {
            throw ResourceError(subject, "xsave area of \(thread.xsave.count) bytes is malformed")
        }
        image.extendedState = Bytes(state)
        image.blockedSignals = thread.blockedSignals
        image.pendingSignals = thread.pendingSignals
        image.alternateStack = thread.alternateStack
        image.alternateStackSize = thread.alternateStackSize
        image.alternateStackFlags = UInt32(truncatingIfNeeded: thread.alternateStackFlags)
        image.robustList = thread.robustList
        // sizeof(struct robust_list_head); the kernel takes no other.
        image.robustListLength = thread.robustList == 0 ? 0 : 24
        image.clearChildTid = thread.clearChildTid
        image.rseqAddress = thread.rseqAddress
        image.rseqLength = UInt32(truncatingIfNeeded: thread.rseqLength)
        image.rseqSignature = UInt32(truncatingIfNeeded: thread.rseqSignature)
        image.timerSlack = thread.timerSlack
        image.parentDeathSignal = thread.parentDeathSignal
        // PF_MCE_PROCESS and PF_MCE_EARLY: PR_MCE_KILL_LATE, EARLY, DEFAULT are 0, 1, 2.
        image.machineCheckPolicy = thread.flags & 0x80 == 0 ? 2 : thread.flags & 0x0800_0000 != 0 ? 1 : 0
        image.speculation = thread.speculation
        do throws(KernelError) { try addScheduling(&image) } catch {
            throw ResourceError(subject, "cannot read its scheduling", cause: error)
        }
        return image
    }

    static func bytes(_ words: [UInt64]) -> Bytes {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(words.count * 8)
        for word in words { withUnsafeBytes(of: word.littleEndian) { bytes.append(contentsOf: $0) } }
        return Bytes(bytes)
    }

    /// sched_getattr(2), sched_getaffinity(2), ioprio_get(2).
    private func addScheduling(_ image: inout ThreadImage) throws(KernelError) {
        let tid = image.tid
        // struct sched_attr: size and policy, flags, nice and priority, three words for deadline scheduling, clamps.
        var attributes = [UInt64](repeating: 0, count: 7)
        try systemCall("sched_getattr", on: "thread \(tid)") {
            attributes.withUnsafeMutableBytes {
                ck_syscall(Int(SYS_sched_getattr), Int(tid), Int(bitPattern: $0.baseAddress), $0.count, 0, 0, 0)
            }
        }
        image.schedulingPolicy = Int32(truncatingIfNeeded: attributes[0] >> 32)
        image.schedulingFlags = attributes[1]
        // sched_getattr tells no nice value of SCHED_IDLE; the system call's answer is 20 minus it.
        image.nice =
            20
            - Int32(
                try systemCall("getpriority", on: "thread \(tid)") {
                    ck_syscall(Int(SYS_getpriority), Int(PRIO_PROCESS.rawValue), Int(tid), 0, 0, 0, 0)
                })
        image.realTimePriority = Int32(truncatingIfNeeded: attributes[2] >> 32)
        var mask = [UInt8](repeating: 0, count: 1024)
        let size = try systemCall("sched_getaffinity", on: "thread \(tid)") {
            mask.withUnsafeMutableBytes {
                ck_syscall(Int(SYS_sched_getaffinity), Int(tid), 1024, Int(bitPattern: $0.baseAddress), 0, 0, 0)
            }
        }
        image.affinity = Bytes([UInt8](mask.prefix(Int(size))))
        image.ioPriority = Int32(
            try systemCall("ioprio_get", on: "thread \(tid)") {
                // IOPRIO_WHO_PROCESS.
                ck_syscall(Int(SYS_ioprio_get), 1, Int(tid), 0, 0, 0, 0)
            })
    }

    /// A thread frozen inside a restartable sequence (rseq(2)) must not go on in its middle on another processor: as
    /// after a preemption it continues at the abort handler. The pointer to the section may stay: the kernel clears it
    /// when it finds the instruction pointer outside.
    private func abortRestartableSequence(
        _ thread: ThreadRecord, _ registers: inout [UInt64], _ subject: String
    ) throws(ResourceError) {
        guard thread.rseqAddress != 0 else { return }
        do throws(KernelError) {
            // struct rseq: cpu_id_start, cpu_id, rseq_cs.
            let area = try ProcessMemory.read(pid: thread.tgid, address: thread.rseqAddress, count: 16)
            let section = Self.word(area, 8)
            guard section != 0 else { return }
            // struct rseq_cs: version, flags, start_ip, post_commit_offset, abort_ip.
            let descriptor = try ProcessMemory.read(pid: thread.tgid, address: section, count: 32)
            let start = Self.word(descriptor, 8)
            let abort = Self.word(descriptor, 24)
            guard registers[Self.ip] &- start < Self.word(descriptor, 16) else { return }
            let signature = try ProcessMemory.read(pid: thread.tgid, address: abort &- 4, count: 4)
            guard Self.half(signature) == UInt32(truncatingIfNeeded: thread.rseqSignature) else {
                throw KernelError(call: "rseq", object: "signature at \(abort &- 4)", code: .invalidArgument)
            }
            registers[Self.ip] = abort
        } catch {
            throw ResourceError(subject, "cannot read its restartable sequence", cause: error)
        }
    }

    private static func word(_ bytes: [UInt8], _ offset: Int) -> UInt64 {
        bytes.withUnsafeBytes { UInt64(littleEndian: $0.loadUnaligned(fromByteOffset: offset, as: UInt64.self)) }
    }
    private static func half(_ bytes: [UInt8]) -> UInt32 {
        bytes.withUnsafeBytes { UInt32(littleEndian: $0.loadUnaligned(as: UInt32.self)) }
    }

    /// ERESTART_RESTARTBLOCK.
    static let restartBlock = UInt64(bitPattern: -516)

    private func repairSystemCall(
        _ thread: ThreadRecord, _ registers: inout [UInt64], _ subject: String
    ) throws(ResourceError) -> RestartImage? {
        let isInSystemCall = Int64(bitPattern: registers[Self.origAx]) >= 0
        guard isInSystemCall else { return nil }
        if registers[Self.ax] == InterruptedCalls.interrupted, InterruptedCalls.hidden.contains(registers[Self.origAx])
        {
            registers[Self.ax] = InterruptedCalls.restartUnlessHandled
            return nil
        }
        guard registers[Self.ax] == Self.restartBlock else { return nil }
        switch thread.restart {
        case .nanosleep(let clock, let expires):
            return RestartImage(kind: .nanosleep, remaining: max(0, expires - clocks.now(clock)), clock: clock)
        case .poll(let expires):
            let remaining = expires.map { max(0, $0 - clocks.now(CLOCK_MONOTONIC)) } ?? -1
            return RestartImage(kind: .poll, remaining: remaining, clock: CLOCK_MONOTONIC)
        case .futex(let clock, let expires):
            return RestartImage(kind: .futex, remaining: max(0, expires - clocks.now(clock)), clock: clock)
        case .none, .other:
            throw ResourceError(
                subject, "waits in system call \(registers[Self.origAx]), which cannot be entered again")
        }
    }
}
