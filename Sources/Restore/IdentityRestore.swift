import CEmbryo
import CKernel
import Glibc
import Kernel
import ProcessImage
import Resources

extension ServiceRestore {
    /// Filters, ids, capabilities, and what they would have reset; each thread for itself.
    func restoreIdentity(_ process: ProcessImage) throws(RestoreError) {
        let embryo = try member(process.pid)
        let filters = try filterChain(process)
        let inUserNamespace = try Sandbox.hasUserNamespace(tree.place)
        if !process.rootDirectory.isEmpty, process.rootDirectory != "/" {
            try step(process.pid, "root directory") { () throws(KernelError) in
                try embryo.call(Int32(SYS_chroot), .path(process.rootDirectory), on: process.rootDirectory)
            }
        }
        let own = try step(process.pid, "own capabilities") { () throws(KernelError) in try Self.ownCapabilities() }
        // Traced with PTRACE_O_SUSPEND_SECCOMP, so a filter binds only once the process is let go. All threads are
        // under the very same: else none could ever synchronise the others again.
        try step(process.pid, "seccomp filters") { () throws(KernelError) in
            for (program, flags) in zip(filters.programs, filters.flags) {
                try embryo.run([Self.install(program.content, flags | Self.synchronised, embryo.leader)])
            }
        }
        for thread in process.threads {
            let slot = try slot(thread, embryo)
            try step(thread.tid, "rights") { () throws(KernelError) in
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
            try PosixTimers.restore(process.posixTimers, in: embryo)
            try embryo.call(Int32(SYS_close), .int(embryo.controlDescriptor), on: "control descriptor")
        }
    }

    private func filterChain(_ process: ProcessImage) throws(RestoreError) -> FilterChainImage {
        let count = Int(process.credentials.seccompFilters)
        guard count > 0 else { return FilterChainImage() }
        guard image.filterChains.indices.contains(Int(process.filterChain)),
            image.filterChains[Int(process.filterChain)].programs.count == count,
            image.filterChains[Int(process.filterChain)].flags.count == count
        else { throw .image("the \(count) seccomp filters of process \(process.pid) are not in it") }
        return image.filterChains[Int(process.filterChain)]
    }

    /// SECCOMP_FILTER_FLAG_TSYNC, and SECCOMP_FILTER_FLAG_TSYNC_ESRCH: an error where it fails.
    private static let synchronised: UInt64 = 1 | 1 << 4

    /// seccomp(2) SECCOMP_SET_MODE_FILTER; `struct sock_fprog` and the program in one piece of scratch memory.
    private static func install(_ filter: [UInt8], _ flags: UInt64, _ slot: EmbryoSlot) -> EmbryoCall {
        var program = Words([
            UInt64(filter.count / 8), EmbryoSlot.address(slot.base) + UInt64(EMBRYO_SCRATCH) + 16,
        ])
        program.bytes += filter
        return EmbryoCall(Int32(SYS_seccomp), [.int(1), .int(Int(flags)), .bytes(program.bytes)], on: "seccomp filter")
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
        // While it is root; the processes and threads of a service share one.
        if wanted.fileSystemUser != 0 {
            calls.insert(SessionKeyring.giveAway(user: wanted.fileSystemUser, group: wanted.fileSystemGroup), at: 1)
        }
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
