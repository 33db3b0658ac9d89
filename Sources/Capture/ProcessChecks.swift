import Glibc
import Kernel
import KernelCapture
import ProcessImage
import Resources

/// What of the processes themselves cannot be carried, whatever their descriptors and mappings are.
enum ProcessChecks {
    static func check(_ snapshot: ServiceSnapshot) -> [Refusal] {
        var refusals: [Refusal] = []
        if snapshot.invisible > 0 {
            refusals.append(
                Refusal(
                    pid: 0, subject: "\(snapshot.invisible) processes", object: "",
                    why: "they are outside of mobilityd's pid namespace", remedy: "run mobilityd in the host's own"))
        }
        if snapshot.processes.isEmpty {
            refusals.append(
                Refusal(
                    pid: 0, subject: "unit", object: "", why: "no process of it runs", remedy: "start it first"))
        }
        for process in snapshot.processes {
            if process.isZombie {
                refusals.append(
                    refusal(
                        process, "process", process.leader.name,
                        "has ended and was not reaped by its parent \(process.leader.parent)",
                        "repeat the check; if it stays, the parent does not wait for its children: restart the service")
                )
                continue
            }
            refusals += tree(process, in: snapshot) + whole(process) + sharing(process, in: snapshot)
            refusals += namespaces(process, in: snapshot)
            refusals += PosixTimers.check(pid: process.pid, process.task.process.posixTimers)
            for thread in process.task.threads { refusals += check(thread, of: process) }
        }
        return refusals + systemV(snapshot)
    }

    private static func refusal(
        _ process: ProcessSnapshot, _ subject: String, _ object: String, _ why: String, _ remedy: String
    ) -> Refusal {
        Refusal(pid: process.pid, subject: subject, object: object, why: why, remedy: remedy)
    }

    /// Parent, group and session must be the unit's own, or be gone.
    private static func tree(_ process: ProcessSnapshot, in snapshot: ServiceSnapshot) -> [Refusal] {
        let leader = process.leader
        let members = Set(snapshot.processes.map(\.pid))
        var refusals: [Refusal] = []
        if leader.parent != 1, !members.contains(leader.parent) {
            refusals.append(
                refusal(
                    process, "parent", "pid \(leader.parent)", "the parent process does not belong to the unit",
                    "let systemd start the service itself"))
        }
        for (name, number) in [("process group", leader.group), ("session", leader.session)]
        where !members.contains(number) && (number == 0 || Files.exists("/proc/\(number)")) {
            refusals.append(
                refusal(
                    process, name, "\(number)", "its leader does not belong to the unit",
                    "let systemd start the service itself"))
        }
        return refusals
    }

    /// What concerns the process as a whole.
    private static func whole(_ process: ProcessSnapshot) -> [Refusal] {
        let record = process.task.process
        let leader = process.leader
        let label = securityLabel(process.pid)
        let found: [(Bool, String, String, String)] = [
            (
                leader.exitState != 0, "leader thread", "has ended while other threads run on",
                "let the main thread wait for the others instead of calling pthread_exit()"
            ),
            (
                ProcessView.root(of: process.pid) == nil, "chroot",
                "has changed its root inside a mount namespace, where nothing leads to its files any more",
                "leave chroot to systemd (RootDirectory=), or remove what gives the unit a mount namespace"
            ),
            (
                record.protectionKeys & ~1 != 0, "pkey_alloc", "memory protection keys cannot be carried",
                "switch off protection keys in the service"
            ),
            (
                record.hasLocalDescriptorTable, "modify_ldt", "a local descriptor table cannot be carried",
                "do not run 16- or 32-bit code (wine, dosemu) in the service"
            ),
            (
                record.signalFlags & 1 != 0, "stop", "is stopped by a signal and would run on after a move",
                "send it SIGCONT"
            ),
            (
                record.pendingSignals.count >= pendingSignalLimit, "pending signals",
                "\(pendingSignalLimit) or more signals wait for the process", "repeat the check when it has taken some"
            ),
            (
                leader.exitSignal != SIGCHLD && leader.parent != 1, "clone",
                "its end is told to its parent by signal \(leader.exitSignal) instead of SIGCHLD",
                "let the service start its children by fork(2)"
            ),
            (
                process.workingDirectory.hasSuffix(" (deleted)"), "working directory \(process.workingDirectory)",
                "has been removed", "let the service change to a directory that exists"
            ),
            (
                leader.sessionKeys > 1, "session keyring", "holds \(leader.sessionKeys) keys, which cannot be carried",
                "keep secrets elsewhere than in keyrings(7); remove KeyringMode=shared from the unit"
            ),
            (
                !label.isEmpty, "security label \(label)",
                "is confined by the host's security module, whose label cannot be carried",
                "leave the confinement to the unit, or put the profile out of force (aa-disable(8), semanage(8))"
            ),
            (
                leader.personality != 0, "personality \(String(leader.personality, radix: 16))",
                "a changed execution domain cannot be carried", "start the service without setarch(8) and Personality="
            ),
        ]
        return found.filter(\.0).map { refusal(process, $0.1, "", $0.2, $0.3) }
    }

    /// The label of AppArmor, SELinux or Smack; empty for none. The file does not answer where no such module is.
    private static func securityLabel(_ pid: Int32) -> String {
        guard let text = try? Files.readText("/proc/\(pid)/attr/current") else { return "" }
        let label = text.prefix { $0 != "\0" && $0 != "\n" }
        return ["", "unconfined", "kernel", "_"].contains(label) ? "" : String(label)
    }

    /// Threads of a process share everything, processes nothing.
    private static func sharing(_ process: ProcessSnapshot, in snapshot: ServiceSnapshot) -> [Refusal] {
        var refusals: [Refusal] = []
        let leader = process.leader
        let shared: [(String, KeyPath<ThreadRecord, UInt64>)] = [
            ("descriptor table", \.files), ("working directory and root", \.fileSystem),
            ("signal handlers", \.signalHandlers), ("memory", \.memory),
        ]
        for (name, path) in shared {
            for thread in process.task.threads.dropFirst() where thread[keyPath: path] != leader[keyPath: path] {
                refusals.append(
                    refusal(
                        process, "thread \(thread.tid)", thread.name, "has a \(name) of its own",
                        "the service calls unshare(2) or clone(2) in an unusual way; move it by stop and start"))
            }
            for other in snapshot.processes where other.pid > process.pid && !other.isZombie {
                guard other.leader[keyPath: path] == leader[keyPath: path], leader[keyPath: path] != 0 else { continue }
                refusals.append(
                    refusal(
                        process, name, "pid \(other.pid)",
                        other.leader.isVforkChild || leader.isVforkChild
                            ? "a vfork(2) is in progress" : "is shared with process \(other.pid)",
                        "repeat the check; if it stays, move the service by stop and start"))
            }
        }
        for thread in process.task.threads.dropFirst() where thread.filterChain != leader.filterChain {
            refusals.append(
                refusal(
                    process, "thread \(thread.tid)", thread.name, "has seccomp filters that differ from the process's",
                    "install filters with SECCOMP_FILTER_FLAG_TSYNC, or before there are threads"))
        }
        for thread in process.task.threads.dropFirst() where thread.credentials != leader.credentials {
            refusals.append(
                refusal(
                    process, "thread \(thread.tid)", thread.name, "has credentials that differ from the process's",
                    "change ids and capabilities through the C library, which changes all threads"))
        }
        return refusals
    }

    private static func namespaces(_ process: ProcessSnapshot, in snapshot: ServiceSnapshot) -> [Refusal] {
        guard let first = snapshot.processes.first(where: { !$0.isZombie })?.leader.namespaces else { return [] }
        let own = process.leader.namespaces
        let kinds: [(String, KeyPath<NamespaceIdentities, UInt64>)] = [
            ("user", \.user), ("mount", \.mount), ("network", \.network), ("pid", \.pid), ("uts", \.uts),
            ("ipc", \.ipc), ("time", \.time), ("cgroup", \.cgroup),
        ]
        var refusals: [Refusal] = []
        for (name, path) in kinds {
            let foreign = process.task.threads.first { $0.namespaces[keyPath: path] != first[keyPath: path] }
            guard let foreign else { continue }
            refusals.append(
                refusal(
                    process, "thread \(foreign.tid)", "\(name) namespace",
                    "differs from that of the unit's first process",
                    "configure the service not to use namespaces of its own; sandboxing by systemd is no obstacle"))
        }
        if own.network != own.readerNetwork {
            refusals.append(
                refusal(
                    process, "network namespace", "", "is not the host's",
                    "remove PrivateNetwork= and NetworkNamespacePath= from the unit"))
        }
        if own.pid != own.readerPid || own.pidForChildren != own.pid {
            refusals.append(
                refusal(process, "pid namespace", "", "is not the host's", "remove PrivatePIDs= from the unit"))
        }
        return refusals
    }

    /// Identifiers of System V objects cannot be had on another host. What the service has used last, or made as a
    /// user of its own, is its; in an ipc namespace of its own everything is.
    private static func systemV(_ snapshot: ServiceSnapshot) -> [Refusal] {
        guard let first = snapshot.processes.first(where: { !$0.isZombie }),
            let objects = try? SystemVObject.all(ofNamespaceOf: first.pid)
        else { return [] }
        let isPrivate = (try? NamespaceKind.ipc.identity(of: first.pid) != NamespaceKind.ipc.identity(of: 1)) ?? false
        let pids = Set(snapshot.processes.map(\.pid))
        let users = Set(snapshot.processes.map(\.leader.credentials.effectiveUser)).subtracting([0])
        return objects.filter { isPrivate || !pids.isDisjoint(with: $0.pids) || users.contains($0.creator) }.map {
            refusal(
                first, "System V \($0.kind.rawValue) \($0.id)",
                "key 0x\(String(UInt32(bitPattern: $0.key), radix: 16))",
                "cannot get its identifier on another host",
                "use the service's setting for POSIX or mmap objects, or remove it with ipcrm(1) if it is stale")
        }
    }

    private static func check(_ thread: ThreadRecord, of process: ProcessSnapshot) -> [Refusal] {
        // __USER32_CS of arch/x86/include/asm/segment.h.
        let is32Bit = thread.registers.count == 27 && thread.registers[17] == 0x23
        let found: [(Bool, String, String)] = [
            (thread.ptrace != 0, "is traced by a debugger", "detach the debugger (strace, gdb)"),
            (is32Bit, "runs 32-bit code", "use a 64-bit build of the service"),
            (thread.hasShadowStack, "uses a shadow stack", "start the service without GLIBC_TUNABLES x86_shstk"),
            (
                thread.hasIOPermissions, "has access to I/O ports (ioperm, iopl)",
                "a service that drives hardware cannot move"
            ),
            (
                thread.hasSyscallDispatch, "redirects system calls to itself (PR_SET_SYSCALL_USER_DISPATCH)",
                "do not run an emulator in the service"
            ),
            (
                thread.hasSemaphoreUndo, "holds System V semaphores with SEM_UNDO",
                "use the service's setting for other locks"
            ),
            (thread.hasCoreCookie, "is under core scheduling", "do not set PR_SCHED_CORE for the service"),
            // PF_LOCAL_THROTTLE, which PR_SET_IO_FLUSHER sets.
            (thread.flags & 0x10_0000 != 0, "flushes I/O (PR_SET_IO_FLUSHER)", "a storage daemon cannot move"),
            (
                thread.hasFaultingInstructions, "has RDTSC or CPUID end in a signal (PR_SET_TSC, ARCH_SET_CPUID)",
                "do not run a recorder or emulator in the service"
            ),
            (thread.hasMemoryPolicy, "has a NUMA memory policy", "remove NUMAPolicy= and set_mempolicy(2)"),
            (
                thread.pendingSignals.count >= pendingSignalLimit,
                "has \(pendingSignalLimit) or more signals waiting for it", "repeat the check when it has taken some"
            ),
            (
                thread.landlockDomain != 0 && Landlock.isEnabled && (thread.landlockPlaceIsTold || Landlock.isFirst),
                "has restricted itself by Landlock, which cannot be read and would be lost",
                "switch the service's own sandbox off and sandbox it by its unit"
            ),
            // SCHED_DEADLINE.
            (thread.policy == 6, "is scheduled by deadlines", "use another policy of sched(7) in the service"),
            (
                thread.ownKeys > 0, "has \(thread.ownKeys) keys in the keyring of thread or process",
                "keep secrets elsewhere than in keyrings(7)"
            ),
            (
                thread.tid == process.pid && thread.parentDeathSignal != 0 && thread.parentThread != thread.parent,
                "asked for a signal at the end of thread \(thread.parentThread) of its parent, not the main one",
                "let the main thread start such children, or do without PR_SET_PDEATHSIG"
            ),
            (thread.seccompMode == 1, "is in strict seccomp mode", "use seccomp filters instead"),
            (thread.hasTooManyGroups, "has more than 64 supplementary groups", "put its user into fewer groups"),
            (
                thread.restart == .other && thread.registers.count == 27
                    && Int64(bitPattern: thread.registers[10]) == -516,
                "waits in a system call that cannot be entered again", "repeat the check a little later"
            ),
        ]
        return found.filter(\.0).map { refusal(process, "thread \(thread.tid)", thread.name, $0.1, $0.2) }
    }
}
