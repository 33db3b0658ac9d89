import CEmbryo
import CKernel
import Glibc
import Kernel
import ProcessImage
import Resources

extension ServiceRestore {
    /// The arriving unit's seccomp filters, oldest first.
    func seccompFilters() throws(RestoreError) -> [[UInt8]] {
        guard image.processes.contains(where: { $0.credentials.seccompFilters > 0 }) else { return [] }
        guard let holder else { throw .image("the service has seccomp filters and there is no unit to copy them from") }
        let pid = holder.pid
        return try step(pid, "seccomp filters") { () throws(KernelError) in
            try Ptrace.seize(pid, options: 0)
            try Ptrace.interrupt(pid)
            try Ptrace.awaitStop(pid)
            var filters: [[UInt8]] = []
            var failure: KernelError?
            do throws(KernelError) {
                while let filter = try Ptrace.seccompFilter(pid, filters.count) { filters.append(filter) }
            } catch {
                failure = error
            }
            try Ptrace.detach(pid)
            if let failure { throw failure }
            return filters
        }
    }

    /// Filters, ids, capabilities, and what they would have reset; each thread for itself.
    func restoreIdentity(_ process: ProcessImage, _ filters: [[UInt8]]) throws(RestoreError) {
        let embryo = try member(process.pid)
        let wanted = Int(process.credentials.seccompFilters)
        guard wanted <= filters.count else {
            throw .image(
                "process \(process.pid) has \(wanted) seccomp filters, the unit's sandbox \(filters.count): "
                    + "filters that a process installs itself cannot be carried")
        }
        let inUserNamespace = try Sandbox.hasUserNamespace(tree.place)
        let own = try step(process.pid, "own capabilities") { () throws(KernelError) in try Self.ownCapabilities() }
        for thread in process.threads {
            let slot = try slot(thread, embryo)
            try step(thread.tid, "rights") { () throws(KernelError) in
                // Traced with PTRACE_O_SUSPEND_SECCOMP, so a filter binds only once the process is let go.
                for filter in filters.prefix(wanted) { _ = try slot.run([Self.install(filter, slot)]) }
                _ = try slot.run(Self.identity(process.credentials, own, groupsAreSet: inUserNamespace))
            }
        }
        // After the ids: changing them has reset both.
        for thread in process.threads where thread.parentDeathSignal != 0 {
            let slot = try slot(thread, embryo)
            try step(thread.tid, "parent death signal") { () throws(KernelError) in
                _ = try slot.run([
                    EmbryoCall(Int32(SYS_prctl), [.int(1), .int(thread.parentDeathSignal)], on: "PR_SET_PDEATHSIG")
                ])
            }
        }
        try step(process.pid, "last settings") { () throws(KernelError) in
            try embryo.run(Self.lastSettings(process) + Self.timers(process))
            try embryo.call(Int32(SYS_close), .int(embryo.controlDescriptor), on: "control descriptor")
        }
    }

    /// seccomp(2) SECCOMP_SET_MODE_FILTER; `struct sock_fprog` and the program in one piece of scratch memory.
    private static func install(_ filter: [UInt8], _ slot: EmbryoSlot) -> EmbryoCall {
        var program = Words([
            UInt64(filter.count / 8), EmbryoSlot.address(slot.base) + UInt64(EMBRYO_SCRATCH) + 16,
        ])
        program.bytes += filter
        return EmbryoCall(Int32(SYS_seccomp), [.int(1), .int(0), .bytes(program.bytes)], on: "seccomp filter")
    }

    private static func ownCapabilities() throws(KernelError) -> UInt64 {
        for line in try Files.readText("/proc/thread-self/status").split(separator: "\n")
        where line.hasPrefix("CapPrm:") {
            return line.split(separator: "\t").last.flatMap { UInt64($0, radix: 16) } ?? 0
        }
        return 0
    }

    private static func capset(permitted: UInt64, effective: UInt64, inheritable: UInt64) -> EmbryoCall {
        var header = Words()
        header.add(UInt32(0x2008_0522))
        header.add(UInt32(0))
        var data = Words()
        for shift in [UInt64(0), 32] {
            data.add(UInt32(truncatingIfNeeded: effective >> shift))
            data.add(UInt32(truncatingIfNeeded: permitted >> shift))
            data.add(UInt32(truncatingIfNeeded: inheritable >> shift))
        }
        return EmbryoCall(Int32(SYS_capset), [.bytes(header.bytes), .bytes(data.bytes)], on: "capabilities")
    }

    private static func prctl(_ option: Int, _ value: Int, _ third: Int = 0, on what: String) -> EmbryoCall {
        EmbryoCall(Int32(SYS_prctl), [.int(option), .int(value), .int(third), .int(0), .int(0)], on: what)
    }

    static func setGroups(_ wanted: CredentialsImage) -> EmbryoCall {
        var groups = Words()
        for group in wanted.supplementaryGroups { groups.add(group) }
        let count = wanted.supplementaryGroups.count
        return EmbryoCall(Int32(SYS_setgroups), [.int(count), .bytes(groups.bytes)], on: "supplementary groups")
    }

    private static func identity(
        _ wanted: CredentialsImage, _ own: UInt64, groupsAreSet: Bool
    ) -> [EmbryoCall] {
        // SECBIT_NO_SETUID_FIXUP: leaving root takes no capability until capset does.
        var calls = [
            prctl(28, 1 << 2, on: "securebits"),
            EmbryoCall(
                Int32(SYS_setresgid),
                [.int(Int(wanted.realGroup)), .int(Int(wanted.effectiveGroup)), .int(Int(wanted.savedGroup))],
                on: "group ids"),
            EmbryoCall(Int32(SYS_setfsgid), [.int(Int(wanted.fileSystemGroup))], on: "file system group"),
            EmbryoCall(
                Int32(SYS_setresuid),
                [.int(Int(wanted.realUser)), .int(Int(wanted.effectiveUser)), .int(Int(wanted.savedUser))],
                on: "user ids"),
            EmbryoCall(Int32(SYS_setfsuid), [.int(Int(wanted.fileSystemUser))], on: "file system user"),
        ]
        // systemd denies setgroups(2) in the user namespaces it makes; there they were set before it was entered.
        if !groupsAreSet { calls.insert(setGroups(wanted), at: 1) }
        for capability in 0...40 where wanted.bounding & (1 << UInt64(capability)) == 0 {
            calls.append(prctl(24, capability, on: "bounding set, capability \(capability)"))
        }
        calls.append(capset(permitted: own, effective: own, inheritable: wanted.inheritable))
        calls.append(prctl(47, 4, on: "ambient set"))
        for capability in 0...40 where wanted.ambient & (1 << UInt64(capability)) != 0 {
            calls.append(prctl(47, 2, capability, on: "ambient set, capability \(capability)"))
        }
        calls.append(prctl(28, Int(wanted.secureBits), on: "securebits"))
        calls.append(
            capset(permitted: wanted.permitted, effective: wanted.effective, inheritable: wanted.inheritable))
        if wanted.noNewPrivileges { calls.append(prctl(38, 1, on: "no_new_privs")) }
        return calls
    }

    private static func lastSettings(_ process: ProcessImage) -> [EmbryoCall] {
        var calls: [EmbryoCall] = []
        // 2 cannot be set; the kernel itself sets it when ids change under fs.suid_dumpable=2.
        if process.dumpable < 2 { calls.append(prctl(4, Int(process.dumpable), on: "dumpable")) }
        if process.isChildSubreaper { calls.append(prctl(36, 1, on: "child subreaper")) }
        let hugePages = Int(process.transparentHugePagesDisabled)
        if hugePages != 0 { calls.append(prctl(41, 1, hugePages & ~1, on: "transparent huge pages")) }
        if process.mergesMemory { calls.append(prctl(67, 1, on: "memory merge")) }
        if process.memoryDenyWriteExecute != 0 {
            calls.append(prctl(65, Int(process.memoryDenyWriteExecute), on: "MDWE"))
        }
        return calls
    }

    /// setitimer(2); the image counts microseconds.
    private static func timers(_ process: ProcessImage) -> [EmbryoCall] {
        process.intervalTimers.enumerated().filter { $0.element.remaining > 0 }.map { which, timer in
            let words = Words([
                UInt64(timer.interval / 1_000_000), UInt64(timer.interval % 1_000_000),
                UInt64(timer.remaining / 1_000_000), UInt64(timer.remaining % 1_000_000),
            ])
            return EmbryoCall(
                Int32(SYS_setitimer), [.int(which), .bytes(words.bytes), .int(0)], on: "interval timer \(which)")
        }
    }
}
