import CKernel
import Glibc
import Kernel
import ProcessImage
import Resources

extension ServiceRestore {
    func restoreThreads(_ process: ProcessImage) throws(RestoreError) {
        let embryo = try member(process.pid)
        guard process.threads.first?.tid == process.pid else {
            throw .image("process \(process.pid) does not begin with its leader thread")
        }
        let missing = process.threads.dropFirst().map(\.tid).filter { tid in
            !embryo.threads.contains { $0.tid == tid }
        }
        guard try Sandbox.enterUserNamespace(embryo, tree.place, process.credentials) else {
            for tid in missing { try embryo.cloneThread(tid) }
            return
        }
        if missing.isEmpty { return }
        // The counter goes back, so that this host keeps handing out numbers of its own stripe.
        let counter = "/proc/sys/kernel/ns_last_pid"
        let before = try step(process.pid, "pid counter") { () throws(KernelError) in try Files.readText(counter) }
        for tid in missing { try embryo.cloneThreadByCounter(tid) }
        try step(process.pid, "pid counter") { () throws(KernelError) in try Files.writeControl(counter, before) }
    }

    func slot(_ thread: ThreadImage, _ embryo: Embryo) throws(RestoreError) -> EmbryoSlot {
        guard let slot = embryo.threads.first(where: { $0.tid == thread.tid }) else {
            throw .image("thread \(thread.tid) of process \(embryo.pid) was not made")
        }
        return slot
    }

    /// What each thread registers with the kernel for itself, then the signals that wait for it.
    func restoreThreadAttributes(_ process: ProcessImage) throws(RestoreError) {
        let embryo = try member(process.pid)
        for thread in process.threads {
            let slot = try slot(thread, embryo)
            noteRestartableSequence(thread, process.pid)
            var calls = Self.registrations(thread) + Self.scheduling(thread)
            if thread.tid == process.pid {
                for signal in process.pendingSignals {
                    calls.append(
                        EmbryoCall(
                            Int32(SYS_rt_sigqueueinfo),
                            [.int(process.pid), .int(Self.number(signal)), .bytes(signal.content)], on: "pending signal"
                        ))
                }
            }
            for signal in thread.pendingSignals {
                calls.append(
                    EmbryoCall(
                        Int32(SYS_rt_tgsigqueueinfo),
                        [.int(process.pid), .int(thread.tid), .int(Self.number(signal)), .bytes(signal.content)],
                        on: "pending signal"))
            }
            try step(thread.tid, "thread attributes") { () throws(KernelError) in _ = try slot.run(calls) }
        }
    }

    private static func number(_ signal: Bytes) -> Int32 {
        guard signal.content.count >= 4 else { return 0 }
        return signal.content.withUnsafeBytes { $0.loadUnaligned(as: Int32.self) }
    }

    private static func registrations(_ thread: ThreadImage) -> [EmbryoCall] {
        var stack = Words([thread.alternateStack])
        // SS_ONSTACK is a state, not a setting.
        stack.add(thread.alternateStack == 0 ? 2 : thread.alternateStackFlags & ~1)
        stack.add(UInt32(0))
        stack.add(thread.alternateStackSize)
        var calls = [
            EmbryoCall(Int32(SYS_sigaltstack), [.bytes(stack.bytes), .int(0)], on: "alternate stack"),
            EmbryoCall(
                Int32(SYS_set_robust_list), [.address(thread.robustList), .int(24)], on: "robust list"),
            EmbryoCall(Int32(SYS_set_tid_address), [.address(thread.clearChildTid)], on: "tid address"),
            EmbryoCall(Int32(SYS_prctl), [.int(15), .path(thread.name)], on: "thread name"),
        ]
        if thread.machineCheckPolicy != 2 {
            calls.append(
                EmbryoCall(
                    Int32(SYS_prctl), [.int(33), .int(1), .int(Int(thread.machineCheckPolicy)), .int(0), .int(0)],
                    on: "machine check policy"))
        }
        // PR_SET_SPECULATION_CTRL. A processor that needs no such care answers ENXIO or ENODEV.
        for (which, mode) in [(0, thread.speculation.storeBypass), (1, thread.speculation.indirectBranch)]
        where mode != 0 {
            calls.append(
                EmbryoCall(
                    Int32(SYS_prctl), [.int(53), .int(which), .int(Int(mode)), .int(0), .int(0)], on: "speculation",
                    mustSucceed: false))
        }
        if thread.rseqAddress != 0 {
            calls.append(
                EmbryoCall(
                    Int32(SYS_rseq),
                    [
                        .address(thread.rseqAddress), .int(Int(thread.rseqLength)), .int(0),
                        .int(Int(thread.rseqSignature)),
                    ], on: "restartable sequence"))
        }
        return calls
    }

    private static func scheduling(_ thread: ThreadImage) -> [EmbryoCall] {
        // struct sched_attr, sched_setattr(2).
        var attributes = Words()
        attributes.add(UInt32(48))
        attributes.add(thread.schedulingPolicy)
        attributes.add(thread.schedulingFlags)
        attributes.add(thread.nice)
        attributes.add(thread.realTimePriority)
        attributes.add(UInt64(0))
        attributes.add(UInt64(0))
        attributes.add(UInt64(0))
        var calls = [
            // Before the policy: SCHED_IDLE takes no nice value from the attributes.
            EmbryoCall(Int32(SYS_setpriority), [.int(0), .int(0), .int(thread.nice)], on: "nice value"),
            EmbryoCall(Int32(SYS_sched_setattr), [.int(0), .bytes(attributes.bytes), .int(0)], on: "scheduling"),
            EmbryoCall(Int32(SYS_prctl), [.int(29), .int(Int(thread.timerSlack))], on: "timer slack"),
        ]
        if thread.ioPriority != 0 {
            calls.append(
                EmbryoCall(
                    Int32(SYS_ioprio_set), [.int(1), .int(0), .int(thread.ioPriority)], on: "I/O priority"))
        }
        if !thread.affinity.content.isEmpty {
            // This host may have none of those processors; then all it has are right.
            calls.append(
                EmbryoCall(
                    Int32(SYS_sched_setaffinity),
                    [.int(0), .int(thread.affinity.content.count), .bytes(thread.affinity.content)], on: "affinity",
                    mustSucceed: false))
        }
        return calls
    }
}
