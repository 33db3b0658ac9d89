import ProcessImage

/// Restart block of a system call that ended with -ERESTART_RESTARTBLOCK, `struct restart_block`.
public enum RestartBlock: Equatable, Sendable {
    case none
    /// Absolute expiry on `clock`, nanoseconds of the initial time namespace.
    case nanosleep(clock: Int32, expires: Int64)
    /// Absolute CLOCK_MONOTONIC end, nil without end.
    case poll(expires: Int64?)
    /// Absolute expiry on `clock`.
    case futex(clock: Int32, expires: Int64)
    /// A function that this version does not know.
    case other
}

/// Identities of the namespaces of a task: equal values are one namespace, nothing else is promised.
public struct NamespaceIdentities: Hashable, Sendable {
    public var user: UInt64 = 0, mount: UInt64 = 0, network: UInt64 = 0, pid: UInt64 = 0, pidForChildren: UInt64 = 0
    public var uts: UInt64 = 0, ipc: UInt64 = 0, time: UInt64 = 0, cgroup: UInt64 = 0
    /// Those of the reader, this daemon.
    public var readerNetwork: UInt64 = 0, readerPid: UInt64 = 0
    public init() {}
}

/// What the kernel capture module tells of one thread; numbers are those of this daemon's pid namespace.
public struct ThreadRecord: Sendable {
    public var tid: Int32 = 0, tgid: Int32 = 0, parent: Int32 = 0, group: Int32 = 0, session: Int32 = 0
    public var name = ""
    /// EXIT_ZOMBIE, EXIT_DEAD; 0 while it lives.
    public var exitState: UInt32 = 0
    public var exitSignal: Int32 = 0
    /// PF_… flags and PT_… flags (`task->ptrace`), TIF_… flags.
    public var flags: UInt64 = 0, ptrace: UInt64 = 0, threadFlags: UInt64 = 0
    /// `struct user_regs_struct`, 27 words.
    public var registers: [UInt64] = []
    /// The xsave area as it lies in the kernel, perhaps compacted; see `ExtendedState`.
    public var xsave: [UInt8] = []
    /// The real mask, not the temporary one of sigsuspend and ppoll.
    public var blockedSignals: UInt64 = 0
    /// Bits of the thread's own pending signals, and their records as 128-byte `siginfo_t`.
    public var pendingMask: UInt64 = 0
    public var pendingSignals: [Bytes] = []
    public var alternateStack: UInt64 = 0, alternateStackSize: UInt64 = 0, alternateStackFlags: UInt64 = 0
    public var robustList: UInt64 = 0, clearChildTid: UInt64 = 0
    public var rseqAddress: UInt64 = 0, rseqLength: UInt64 = 0, rseqSignature: UInt64 = 0
    public var restart = RestartBlock.none
    /// Identities of what threads normally share.
    public var files: UInt64 = 0, fileSystem: UInt64 = 0, signalHandlers: UInt64 = 0, memory: UInt64 = 0
    public var umask: UInt32 = 0
    public var namespaces = NamespaceIdentities()
    public var credentials = CredentialsImage()
    /// More groups than a record holds.
    public var hasTooManyGroups = false
    public var seccompMode: UInt64 = 0
    /// A child made with CLONE_VFORK waits to be released.
    public var isVforkChild = false
    public var usesIOUring = false, hasSemaphoreUndo = false, hasIOPermissions = false, hasShadowStack = false
    public var hasSyscallDispatch = false, hasCoreCookie = false, hasMemoryPolicy = false
    public var personality: UInt64 = 0
    public var parentDeathSignal: Int32 = 0
    public var timerSlack: UInt64 = 0
    /// The thread whose child this process is.
    public var parentThread: Int32 = 0
    /// SCHED_…
    public var policy: Int32 = 0
    /// Keys in the keyrings of thread and process, and in that of the session.
    public var ownKeys: UInt64 = 0, sessionKeys: UInt64 = 0
    /// Identity of the chain of seccomp filters.
    public var filterChain: UInt64 = 0
    /// Identity of the Landlock domain, and whether the kernel told its place; else it was looked for in the first
    /// place behind the credential. Means nothing where Landlock is not in use.
    public var landlockDomain: UInt64 = 0, landlockPlaceIsTold = false
    /// RDTSC or CPUID end in a signal: PR_SET_TSC, ARCH_SET_CPUID.
    public var hasFaultingInstructions = false
    /// `task->atomic_flags`, include/linux/sched.h: PFA_SPEC_….
    public var speculation = SpeculationImage()
    public init() {}
}

/// What the kernel capture module tells of one process.
public struct ProcessRecord: Sendable {
    public var pid: Int32 = 0
    public var layout = MemoryLayoutImage()
    /// MMF_… bits.
    public var memoryFlags: UInt64 = 0
    public var hasAsynchronousIO = false, hasLocalDescriptorTable = false
    /// Bit 0 is the default key.
    public var protectionKeys: UInt64 = 0
    public var oomScoreAdjustment: Int32 = 0
    public var isChildSubreaper = false
    public var posixTimers: [PosixTimerRecord] = []
    /// VM_… that new mappings begin with, MEMBARRIER_STATE_… and SIGNAL_… bits.
    public var newMappings: UInt64 = 0, membarrierState: UInt64 = 0, signalFlags: UInt64 = 0
    public var pendingMask: UInt64 = 0
    public var pendingSignals: [Bytes] = []
    public var intervalTimers: [IntervalTimerImage] = []
    public var limits: [LimitImage] = []
    public var signalActions: [SignalActionImage] = []
    public init() {}
}

/// When a timer of timer_create(2) goes off next; /proc/PID/timers has the rest.
public struct PosixTimerRecord: Sendable {
    public var id: Int32
    /// The clock that `next` is counted on; nil for a clock of CPU time.
    public var clock: Int32?
    public var isArmed: Bool
    /// Nanoseconds: until it goes off on CLOCK_MONOTONIC and CLOCK_BOOTTIME, else a time on the clock.
    public var next: Int64
    public var interval: Int64
}

/// How many signals of one queue a pass reads, CAPTURE_PENDING of capture.h.
public let pendingSignalLimit = 100
/// How many timers of one process a pass reads, CAPTURE_TIMERS of capture.h.
public let posixTimerLimit = 64

/// One process with its threads, the leader first.
public struct TaskRecord: Sendable {
    public var process: ProcessRecord
    public var threads: [ThreadRecord]
    public init(process: ProcessRecord, threads: [ThreadRecord]) {
        self.process = process
        self.threads = threads
    }
}

/// One open file of one process.
public struct FileRecord: Sendable {
    public var pid: Int32 = 0, number: Int32 = 0
    /// Identity of the `struct file`.
    public var description: UInt64 = 0
    public var flags: UInt32 = 0, mode: UInt32 = 0
    public var position: Int64 = 0
    public var inode: UInt64 = 0, device: UInt64 = 0
    public var socket: SocketRecord?
    public init() {}
}
