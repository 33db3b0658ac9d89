/// Everything of a unit's cgroup that crosses to the other host, but for the contents of memory, which travel
/// beside it as page runs.
///
/// Process, thread, group and session numbers are those of the host's pid namespace; they are the same on both
/// hosts. Addresses are virtual addresses of the process. Times are nanoseconds.
public struct ServiceImage: Codable, Sendable {
    public var unit: String
    /// Parents before their children.
    public var processes: [ProcessImage] = []
    /// Open file descriptions, each once, however many descriptors and processes share it.
    public var descriptions: [DescriptionImage] = []
    /// Memory objects that outlive one mapping: shared anonymous memory, memfd, System V segments.
    public var sharedMemory: [SharedMemoryImage] = []
    /// Chains of seccomp filters, each once, however many processes are under it.
    public var filterChains: [FilterChainImage] = []
    public var clocks = ClockImage()

    public init(unit: String) { self.unit = unit }
}

/// Seccomp filters in the order of their installation, the sandbox's own first, seccomp(2).
public struct FilterChainImage: Codable, Sendable {
    /// Each an array of `struct sock_filter`.
    public var programs: [Bytes] = []
    /// SECCOMP_FILTER_FLAG_… of each.
    public var flags: [UInt64] = []
    public init() {}
}

/// What the service's clocks showed at the moment of capture, time_namespaces(7).
public struct ClockImage: Codable, Sendable {
    /// CLOCK_MONOTONIC and CLOCK_BOOTTIME as the service's own time namespace shows them.
    public var monotonic: Int64 = 0
    public var boottime: Int64 = 0
    /// CLOCK_REALTIME of the source host at that moment.
    public var realtime: Int64 = 0
    public init() {}
}

/// One process (thread group).
public struct ProcessImage: Codable, Sendable {
    public var pid: Int32
    public var parent: Int32
    public var group: Int32
    public var session: Int32
    /// Path of the executable, and what proves that the destination's is the same.
    public var executable: FileIdentity
    public var workingDirectory: String
    public var rootDirectory: String
    public var umask: UInt32
    public var layout = MemoryLayoutImage()
    public var vmas: [VMAImage] = []
    public var descriptors: [DescriptorImage] = []
    /// The leader first.
    public var threads: [ThreadImage] = []
    /// Index 0 is signal 1; 64 entries, each the kernel's `struct sigaction` (handler, flags, restorer, mask).
    public var signalActions: [SignalActionImage] = []
    /// Process-wide pending signals, each a 128-byte `siginfo_t`, oldest first.
    public var pendingSignals: [Bytes] = []
    /// ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF: microseconds to expiry and interval, 0 when disarmed.
    public var intervalTimers: [IntervalTimerImage] = []
    public var posixTimers: [PosixTimerImage] = []
    /// RLIM_NLIMITS pairs in the kernel's order; `UInt64.max` is unlimited.
    public var limits: [LimitImage] = []
    public var credentials = CredentialsImage()
    /// Index into `ServiceImage.filterChains`; -1 without filters.
    public var filterChain: Int32 = -1
    /// PR_GET_DUMPABLE: 0, 1 or 2.
    public var dumpable: UInt8 = 1
    public var isChildSubreaper = false
    /// PR_GET_THP_DISABLE: 0, or 1 and the flags with which huge pages were disabled.
    public var transparentHugePagesDisabled: UInt8 = 0
    /// PR_GET_MEMORY_MERGE.
    public var mergesMemory = false
    /// MEMBARRIER_CMD_GET_REGISTRATIONS of membarrier(2).
    public var memoryBarriers: UInt32 = 0
    /// Flags of mlockall(2) that concern future mappings: MCL_FUTURE, MCL_ONFAULT.
    public var futureLocks: UInt8 = 0
    /// /proc/PID/coredump_filter.
    public var coreDumpFilter: UInt32 = 0
    /// PR_GET_MDWE flags.
    public var memoryDenyWriteExecute: UInt32 = 0
    public var oomScoreAdjustment: Int32 = 0
    /// Exit signal to the parent, normally SIGCHLD.
    public var exitSignal: Int32 = 17

    public init(
        pid: Int32, parent: Int32, group: Int32, session: Int32, executable: FileIdentity,
        workingDirectory: String, rootDirectory: String, umask: UInt32
    ) {
        self.pid = pid
        self.parent = parent
        self.group = group
        self.session = session
        self.executable = executable
        self.workingDirectory = workingDirectory
        self.rootDirectory = rootDirectory
        self.umask = umask
    }
}

/// A path with what proves that the file behind it is the same on both hosts.
public struct FileIdentity: Codable, Hashable, Sendable {
    public var path: String
    public var size: UInt64
    /// st_mode, type and permission bits.
    public var mode: UInt32
    /// SHA-256 of the content; empty for what is not a regular file or is not compared.
    public var digest: Bytes

    public init(path: String, size: UInt64 = 0, mode: UInt32 = 0, digest: Bytes = Bytes()) {
        self.path = path
        self.size = size
        self.mode = mode
        self.digest = digest
    }
}

/// The marks in `mm_struct` that prctl(2) PR_SET_MM_MAP sets, and the auxiliary vector.
public struct MemoryLayoutImage: Codable, Sendable {
    public var startCode: UInt64 = 0, endCode: UInt64 = 0
    public var startData: UInt64 = 0, endData: UInt64 = 0
    public var startBrk: UInt64 = 0, brk: UInt64 = 0
    public var startStack: UInt64 = 0
    public var argStart: UInt64 = 0, argEnd: UInt64 = 0
    public var envStart: UInt64 = 0, envEnd: UInt64 = 0
    public var auxv = Bytes()
    /// Address of the vdso, and the SHA-256 of its text: registers may point into it.
    public var vdso: UInt64 = 0
    public var vdsoDigest = Bytes()
    public init() {}
}

/// One virtual memory area, a line of /proc/PID/smaps.
public struct VMAImage: Codable, Sendable {
    public enum Kind: UInt8, Codable, Sendable {
        case anonymous = 1
        case filePrivate, fileShared
        /// Backed by an entry of `ServiceImage.sharedMemory`.
        case sharedMemory
        /// A private mapping of a shared memory object (memfd mapped MAP_PRIVATE).
        case sharedMemoryPrivate
        case vdso, vvar
    }
    public var start: UInt64
    public var end: UInt64
    /// PROT_READ | PROT_WRITE | PROT_EXEC.
    public var protection: Int32
    public var kind: Kind
    /// Byte offset in the file or shared object.
    public var offset: UInt64 = 0
    public var file: FileIdentity?
    /// The file was opened for writing (shared mappings keep their right to become writable).
    public var fileWritable = false
    /// Index into `ServiceImage.sharedMemory`.
    public var shared: Int32 = -1
    /// The two-letter flags of smaps' VmFlags line, space separated, for example `rd wr mr mw me ac sd`.
    public var flags: String

    public init(start: UInt64, end: UInt64, protection: Int32, kind: Kind, flags: String) {
        self.start = start
        self.end = end
        self.protection = protection
        self.kind = kind
        self.flags = flags
    }
}

/// A memory object shared between mappings, processes or descriptors.
public struct SharedMemoryImage: Codable, Sendable {
    /// `file`: below /dev/shm, of shm_open(3) or sem_open(3).
    public enum Kind: UInt8, Codable, Sendable { case anonymous = 1, memfd, systemV, file }
    public var kind: Kind
    /// memfd name without the `memfd:` prefix; the path of a file; empty for anonymous.
    public var name: String
    public var size: UInt64
    /// memfd seals (F_GET_SEALS).
    public var seals: UInt32
    /// System V: key, id and permission bits.
    public var key: Int32
    public var identifier: Int32
    public var mode: UInt32
    /// A file's owner, and whether its name is gone.
    public var user: UInt32 = 0
    public var group: UInt32 = 0
    public var isUnlinked = false
    public init(
        kind: Kind, name: String, size: UInt64, seals: UInt32 = 0, key: Int32 = 0, identifier: Int32 = 0,
        mode: UInt32 = 0
    ) {
        self.kind = kind
        self.name = name
        self.size = size
        self.seals = seals
        self.key = key
        self.identifier = identifier
        self.mode = mode
    }
}

/// A descriptor number of one process.
public struct DescriptorImage: Codable, Sendable {
    public var number: Int32
    public var closeOnExec: Bool
    /// Index into `ServiceImage.descriptions`.
    public var description: Int32
    public init(number: Int32, closeOnExec: Bool, description: Int32) {
        self.number = number
        self.closeOnExec = closeOnExec
        self.description = description
    }
}

/// An open file description: one kind's own record inside `payload`.
public struct DescriptionImage: Codable, Sendable {
    /// The kind's registered name, for example `pipe`, `tcp`, `epoll`.
    public var kind: String
    /// F_GETFL status flags.
    public var statusFlags: Int32
    /// F_GETOWN_EX type and id, F_GETSIG; 0 when unset.
    public var ownerType: Int32 = 0
    public var owner: Int32 = 0
    public var ownerSignal: Int32 = 0
    public var payload: Bytes
    public init(kind: String, statusFlags: Int32, payload: Bytes) {
        self.kind = kind
        self.statusFlags = statusFlags
        self.payload = payload
    }
}

public struct SignalActionImage: Codable, Sendable {
    public var handler: UInt64
    public var flags: UInt64
    public var restorer: UInt64
    public var mask: UInt64
    public init(handler: UInt64, flags: UInt64, restorer: UInt64, mask: UInt64) {
        self.handler = handler
        self.flags = flags
        self.restorer = restorer
        self.mask = mask
    }
}

public struct IntervalTimerImage: Codable, Sendable {
    public var remaining: Int64
    public var interval: Int64
    public init(remaining: Int64, interval: Int64) {
        self.remaining = remaining
        self.interval = interval
    }
}

/// A timer of timer_create(2).
public struct PosixTimerImage: Codable, Sendable {
    public var id: Int32
    /// The clock it was made for; numbers below zero are CPU clocks, clock_getcpuclockid(3).
    public var clock: Int32
    public var signal: Int32
    public var value: UInt64
    /// SIGEV_…; `thread` is the one that SIGEV_THREAD_ID names.
    public var notification: Int32
    public var thread: Int32
    public var isArmed = false
    /// Nanoseconds until it goes off, or the time of its clock at which it does.
    public var next: Int64 = 0
    public var isAbsolute = false
    public var interval: Int64 = 0

    public init(id: Int32, clock: Int32, signal: Int32, value: UInt64, notification: Int32, thread: Int32) {
        self.id = id
        self.clock = clock
        self.signal = signal
        self.value = value
        self.notification = notification
        self.thread = thread
    }
}

public struct LimitImage: Codable, Sendable {
    public var soft: UInt64
    public var hard: UInt64
    public init(soft: UInt64, hard: UInt64) {
        self.soft = soft
        self.hard = hard
    }
}

/// credentials(7) and capabilities(7), as numbers of the host's user namespace.
public struct CredentialsImage: Codable, Equatable, Sendable {
    public var realUser: UInt32 = 0, effectiveUser: UInt32 = 0, savedUser: UInt32 = 0, fileSystemUser: UInt32 = 0
    public var realGroup: UInt32 = 0, effectiveGroup: UInt32 = 0, savedGroup: UInt32 = 0, fileSystemGroup: UInt32 = 0
    public var supplementaryGroups: [UInt32] = []
    public var inheritable: UInt64 = 0, permitted: UInt64 = 0, effective: UInt64 = 0
    public var bounding: UInt64 = 0, ambient: UInt64 = 0
    public var secureBits: UInt32 = 0
    public var noNewPrivileges = false
    /// Number of seccomp filters.
    public var seccompFilters: UInt32 = 0
    public init() {}
}

/// One thread.
public struct ThreadImage: Codable, Sendable {
    public var tid: Int32
    public var name: String
    /// `struct user_regs_struct` (27 × 8 bytes, x86-64), as PTRACE_SETREGSET NT_PRSTATUS takes it.
    public var registers = Bytes()
    /// The xsave area in standard (not compacted) form, as PTRACE_SETREGSET NT_X86_XSTATE takes it.
    public var extendedState = Bytes()
    /// The real blocked mask, not the temporary one of sigsuspend and ppoll.
    public var blockedSignals: UInt64 = 0
    /// Thread-directed pending signals, each a 128-byte `siginfo_t`.
    public var pendingSignals: [Bytes] = []
    public var alternateStack: UInt64 = 0, alternateStackSize: UInt64 = 0
    public var alternateStackFlags: UInt32 = 0
    public var robustList: UInt64 = 0, robustListLength: UInt64 = 0
    public var clearChildTid: UInt64 = 0
    public var rseqAddress: UInt64 = 0
    public var rseqLength: UInt32 = 0
    public var rseqSignature: UInt32 = 0
    public var restart: RestartImage?
    /// sched(7): policy, real-time priority, nice value.
    public var schedulingPolicy: Int32 = 0
    public var realTimePriority: Int32 = 0
    public var nice: Int32 = 0
    public var schedulingFlags: UInt64 = 0
    /// CPU mask, little endian, as sched_getaffinity(2) fills it.
    public var affinity = Bytes()
    public var ioPriority: Int32 = 0
    public var timerSlack: UInt64 = 50_000
    /// PR_MCE_KILL_GET.
    public var machineCheckPolicy: UInt8 = 2
    /// PR_GET_PDEATHSIG.
    public var parentDeathSignal: Int32 = 0
    /// PR_GET_SPECULATION_CTRL.
    public var speculation = SpeculationImage()

    public init(tid: Int32, name: String) {
        self.tid = tid
        self.name = name
    }
}

/// What a thread has set with PR_SET_SPECULATION_CTRL, prctl(2): PR_SPEC_DISABLE = 4, PR_SPEC_FORCE_DISABLE = 8,
/// PR_SPEC_DISABLE_NOEXEC = 16; 0 where it has set nothing.
public struct SpeculationImage: Codable, Equatable, Sendable {
    public var storeBypass: UInt8 = 0
    public var indirectBranch: UInt8 = 0
    public init() {}
}

/// A system call that was interrupted with -ERESTART_RESTARTBLOCK and has to be entered again with the
/// remaining time.
public struct RestartImage: Codable, Sendable {
    public enum Kind: UInt8, Codable, Sendable { case nanosleep = 1, poll, futex }
    public var kind: Kind
    /// Nanoseconds that remained at capture; negative means without end.
    public var remaining: Int64
    /// Clock of a nanosleep.
    public var clock: Int32
    public init(kind: Kind, remaining: Int64, clock: Int32) {
        self.kind = kind
        self.remaining = remaining
        self.clock = clock
    }
}

/// A run of pages of one process or shared object; its content follows in the stream.
public struct PageRun: Codable, Sendable {
    /// Index into `ServiceImage.processes`, or into `sharedMemory` when `isShared`.
    public var owner: Int32
    public var isShared: Bool
    /// Virtual address, or byte offset in a shared object.
    public var address: UInt64
    /// Bytes, a multiple of 4096.
    public var length: UInt64
    public init(owner: Int32, isShared: Bool, address: UInt64, length: UInt64) {
        self.owner = owner
        self.isShared = isShared
        self.address = address
        self.length = length
    }
}
