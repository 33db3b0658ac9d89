import CEmbryo
import CKernel
import Glibc
import Kernel
import Resources

/// Who becomes the parent of the service's outermost processes.
public enum Adoption: Sendable {
    /// The daemon's own parent, PID 1: CLONE_PARENT.
    case ourParent
    /// The calling process itself.
    case ourselves
}

/// The first acts of an embryo that was cloned from the daemon itself.
enum EmbryoBirth {
    /// One piece of the kernel's own mappings: `[vdso]`, `[vvar]`, `[vvar_vclock]`.
    struct KernelMapping: Sendable {
        var name: String
        var range: Range<UInt64>
    }

    /// Clones the daemon, and strips the copy of everything that was the daemon's.
    static func start(
        _ pid: Int32, in region: EmbryoRegion, adoption: Adoption, cgroup: Int32?, control: Int32
    ) throws(RestoreError) -> Embryo {
        let acts = firstActs(control: control)
        let embryo = try clone(pid, in: region, adoption: adoption, cgroup: cgroup, acts: acts, control: control)
        do throws(RestoreError) {
            try step(pid, "first acts") { () throws(KernelError) in try embryo.leader.finish(acts) }
            try strip(embryo)
        } catch {
            embryo.kill()
            throw error
        }
        return embryo
    }

    /// The clone, which performs its first acts by itself.
    static func clone(
        _ pid: Int32, in region: EmbryoRegion, adoption: Adoption, cgroup: Int32?, acts: [EmbryoCall], control: Int32
    ) throws(RestoreError) -> Embryo {
        let slot = try step(pid, "slot") { () throws(KernelError) in try region.takeSlot() }
        var arguments = CloneArguments()
        arguments.flags = CloneArguments.clearSighand | CloneArguments.pidfd
        if adoption == .ourParent { arguments.flags |= CloneArguments.parent }
        arguments.exitSignal = adoption == .ourParent ? 0 : UInt64(SIGCHLD)
        if let cgroup {
            arguments.flags |= CloneArguments.intoCgroup
            arguments.cgroup = UInt64(cgroup)
        }
        try step(pid, "first acts") { () throws(KernelError) in
            try raiseDescriptorLimit(above: control)
            try EmbryoSlot.preload(acts, in: slot)
        }
        let pidfd = Embryo.prepare(arguments, pid, slot)
        do throws(KernelError) {
            try systemCall("clone3", on: "pid \(pid)") {
                let result = embryo_start(
                    slot + Int(EMBRYO_SCRATCH), CloneArguments.size, EmbryoSlot.header(slot), region.entry)
                if result < 0 { ck_set_errno(Int32(-result)) }
                return result < 0 ? -1 : result
            }
        } catch {
            throw Embryo.cloneError(error, pid)
        }
        close(pidfd.pointee)
        let handle = try step(pid, "open") { () throws(KernelError) in try ProcessHandle(pid: pid) }
        return Embryo(
            process: handle, region: region, slot: EmbryoSlot(base: slot, tid: pid, process: handle),
            control: control, session: getsid(0), group: getpgid(0))
    }

    private static func strip(_ embryo: Embryo) throws(RestoreError) {
        let pid = embryo.pid
        try step(pid, "leave the daemon's registrations") { () throws(KernelError) in
            let sequence = embryo_rseq_address()
            if sequence != 0 {
                var size = Int(embryo_rseq_size())
                // Feature size and registered size differ in newer C libraries; the registered one is at least 32.
                if try embryo.run([unregister(sequence, size)])[0].value < 0 {
                    size = 32
                    _ = try embryo.call(
                        Int32(SYS_rseq), .int(Int(sequence)), .int(size), .int(1), .int(0x5305_3053), on: "rseq")
                }
            }
            try embryo.run(registrations(embryo))
        }
        try step(pid, "unmap the daemon's memory") { () throws(KernelError) in
            try embryo.run(try unmapping(embryo.region.kept))
        }
    }

    private static func unregister(_ address: UInt, _ size: Int) -> EmbryoCall {
        EmbryoCall(
            Int32(SYS_rseq), [.int(Int(address)), .int(size), .int(1), .int(0x5305_3053)], on: "rseq",
            mustSucceed: false)
    }

    /// The embryo inherits the daemon's limit. mobilityd.service has a high one.
    private static func raiseDescriptorLimit(above control: Int32) throws(KernelError) {
        let limit = try ProcessLimit.get(0, Int32(RLIMIT_NOFILE.rawValue))
        guard limit.soft <= UInt64(control) + 64 else { return }
        try ProcessLimit.set(0, Int32(RLIMIT_NOFILE.rawValue), soft: limit.hard, hard: limit.hard)
    }

    /// Of the daemon's descriptors only one on the daemon itself stays. Done by the new process on its own, and also
    /// when the daemon has died meanwhile: a copy of its listener or of its channels would keep the next daemon from
    /// its port, and the other node from seeing the end of this one.
    static func firstActs(control: Int32) -> [EmbryoCall] {
        [
            EmbryoCall(Int32(SYS_pidfd_open), [.int(getpid()), .int(0)], on: "daemon", mustSucceed: false),
            EmbryoCall(
                Int32(SYS_dup3), [.int(0), .int(control), .int(O_CLOEXEC)], on: "control descriptor",
                mustSucceed: false, takes: (0, 1)),
            EmbryoCall(Int32(SYS_close_range), [.int(0), .int(control - 1), .int(0)], on: "descriptors"),
            EmbryoCall(
                Int32(SYS_close_range), [.int(control + 1), .int(Int(UInt32.max)), .int(0)], on: "descriptors"),
            EmbryoCall(Int32(SYS_fcntl), [.int(control), .int(Int(F_GETFD))], on: "control descriptor"),
        ]
    }

    private static func registrations(_ embryo: Embryo) -> [EmbryoCall] {
        let disabledStack: [UInt8] = [0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0] + [UInt8](repeating: 0, count: 8)
        return [
            EmbryoCall(Int32(SYS_set_robust_list), [.int(0), .int(24)], on: "robust list"),
            EmbryoCall(Int32(SYS_set_tid_address), [.int(0)], on: "tid address"),
            EmbryoCall(Int32(SYS_sigaltstack), [.bytes(disabledStack), .int(0)], on: "alternate stack"),
        ]
    }

    /// Parks vdso and vvar behind the slots, then unmaps everything below and above.
    private static func unmapping(_ kept: Range<UInt64>) throws(KernelError) -> [EmbryoCall] {
        let mappings = try kernelMappings(of: "self")
        let parking = kept.upperBound - EmbryoRegion.parking
        var calls: [EmbryoCall] = []
        if let lowest = mappings.first?.range.lowerBound {
            calls = mappings.map { move($0, by: parking &- lowest) }
        }
        let length = Int(EmbryoRegion.userEnd - kept.upperBound)
        return calls + [
            EmbryoCall(Int32(SYS_munmap), [.int(0), .address(kept.lowerBound)], on: "memory below the loop"),
            EmbryoCall(Int32(SYS_munmap), [.address(kept.upperBound), .int(length)], on: "memory above the loop"),
        ]
    }

    /// mremap of one kernel mapping to another address, the piece keeping its distance to the others.
    static func move(_ mapping: KernelMapping, by distance: UInt64) -> EmbryoCall {
        let size = Int(mapping.range.upperBound - mapping.range.lowerBound)
        return EmbryoCall(
            Int32(SYS_mremap),
            [
                .address(mapping.range.lowerBound), .int(size), .int(size), .int(3),
                .address(mapping.range.lowerBound &+ distance),
            ], on: mapping.name)
    }

    /// vdso and vvar pieces of a process, ascending.
    static func kernelMappings(of process: String) throws(KernelError) -> [KernelMapping] {
        var found: [KernelMapping] = []
        for line in try Files.readText("/proc/\(process)/maps").split(separator: "\n") {
            let words = line.split(separator: " ", omittingEmptySubsequences: true)
            guard let name = words.last, name == "[vdso]" || name.hasPrefix("[vvar") else { continue }
            let ends = words[0].split(separator: "-").compactMap { UInt64($0, radix: 16) }
            if ends.count == 2 { found.append(KernelMapping(name: String(name), range: ends[0]..<ends[1])) }
        }
        return found
    }
}
