import CEmbryo
import CKernel
import Glibc
import Kernel
import Resources

/// A process in the making: its final number, no memory yet but the loop, the daemon's rights.
public final class Embryo: EmbryoBatchPort {
    public var pid: Int32 { process.pid }
    let process: ProcessHandle
    let region: EmbryoRegion
    /// The leader's slot first.
    private(set) var threads: [EmbryoSlot]
    /// Descriptor number of the daemon's pidfd inside the embryo, out of the service's way.
    var controlDescriptor: Int32
    /// What the kernel has of session and group at the moment.
    var session: Int32
    var group: Int32
    private var gathered: [EmbryoCall]?

    var leader: EmbryoSlot { threads[0] }

    init(process: ProcessHandle, region: EmbryoRegion, slot: EmbryoSlot, control: Int32, session: Int32, group: Int32) {
        self.process = process
        self.region = region
        threads = [slot]
        controlDescriptor = control
        self.session = session
        self.group = group
    }

    /// True while the process has not ended.
    public var isAlive: Bool { !process.hasEnded }

    // MARK: calls

    @discardableResult
    public func call(
        _ number: Int32, _ arguments: EmbryoArgument..., on object: String
    ) throws(KernelError) -> EmbryoResult {
        try drain()
        return try leader.run([EmbryoCall(number, arguments, on: object)])[0]
    }

    /// All calls in one round trip (or a few); results in order up to the first that failed and was allowed to.
    @discardableResult
    public func run(_ calls: [EmbryoCall]) throws(KernelError) -> [EmbryoResult] {
        try drain()
        return try leader.run(calls)
    }

    public func enqueue(_ calls: [EmbryoCall]) throws(KernelError) {
        guard gathered != nil else { return _ = try leader.run(calls) }
        gathered?.append(contentsOf: calls)
        if (gathered?.count ?? 0) >= 400 { try drain() }
    }

    /// From here on `enqueue` only collects, up to `flush`.
    func gather() { if gathered == nil { gathered = [] } }

    func flush() throws(KernelError) {
        try drain()
        gathered = nil
    }

    /// Performs what was gathered and goes on gathering.
    private func drain() throws(KernelError) {
        guard let calls = gathered, !calls.isEmpty else { return }
        gathered = []
        _ = try leader.run(calls)
    }

    // MARK: descriptors

    public func take(_ number: Int32) throws(KernelError) -> FileDescriptor {
        try flush()
        return try process.pidfd.take(number)
    }

    public func give(_ descriptor: borrowing FileDescriptor, minimum: Int32) throws(KernelError) -> Int32 {
        let object = "daemon's fd \(descriptor.raw)"
        let got = try call(
            Int32(SYS_pidfd_getfd), .int(controlDescriptor), .int(descriptor.raw), .int(0), on: object)
        if got.value >= minimum { return Int32(got.value) }
        let moved = try run([
            EmbryoCall(
                Int32(SYS_fcntl), [.int(got.value), .int(Int(F_DUPFD_CLOEXEC)), .int(minimum)], on: object),
            EmbryoCall(Int32(SYS_close), [.int(got.value)], on: object),
        ])
        return Int32(moved[0].value)
    }

    /// Moves the control descriptor when the service needs its number.
    func keepClear(of numbers: Range<Int32>) throws(KernelError) {
        guard numbers.contains(controlDescriptor) else { return }
        let moved = try run([
            EmbryoCall(
                Int32(SYS_fcntl), [.int(controlDescriptor), .int(Int(F_DUPFD_CLOEXEC)), .int(numbers.upperBound)],
                on: "control descriptor"),
            EmbryoCall(Int32(SYS_close), [.int(controlDescriptor)], on: "control descriptor"),
        ])
        controlDescriptor = Int32(moved[0].value)
    }

    // MARK: new tasks

    /// Clones a process from this one: a child, or with `asSibling` a child of this one's own parent.
    func cloneProcess(_ pid: Int32, asSibling: Bool) throws(RestoreError) -> Embryo {
        let slot = try step(pid, "slot") { () throws(KernelError) in try region.takeSlot() }
        var arguments = CloneArguments()
        arguments.flags = asSibling ? CloneArguments.parent : 0
        arguments.exitSignal = asSibling ? 0 : UInt64(SIGCHLD)
        try clone(pid, arguments, slot)
        let handle = try step(pid, "open") { () throws(KernelError) in try ProcessHandle(pid: pid) }
        return Embryo(
            process: handle, region: region, slot: EmbryoSlot(base: slot, tid: pid, process: handle),
            control: controlDescriptor, session: session, group: group)
    }

    /// Adds a thread with this number.
    func cloneThread(_ tid: Int32) throws(RestoreError) {
        let slot = try step(tid, "slot") { () throws(KernelError) in try region.takeSlot() }
        try clone(tid, Self.threadArguments, slot)
        threads.append(EmbryoSlot(base: slot, tid: tid, process: process))
    }

    /// Adds a thread where set_tid is refused, inside a user namespace: the number comes from the kernel's counter,
    /// which others move too, so it may take some tries.
    func cloneThreadByCounter(_ tid: Int32) throws(RestoreError) {
        let slot = try step(tid, "slot") { () throws(KernelError) in try region.takeSlot() }
        let counter = "/proc/sys/kernel/ns_last_pid"
        for _ in 0..<50 {
            let got = try step(tid, "clone") { () throws(KernelError) in
                Self.prepare(Self.threadArguments, tid, slot, choosing: false)
                try Files.writeControl(counter, "\(tid - 1)")
                return try cloneCall(slot, "tid \(tid)")
            }
            let thread = EmbryoSlot(base: slot, tid: got, process: process)
            if got == tid {
                threads.append(thread)
                return
            }
            thread.post(EmbryoCall(Int32(SYS_exit), [.int(0)], on: "thread with another number"))
            while Files.exists("/proc/\(pid)/task/\(got)"), isAlive { sched_yield() }
            EmbryoSlot.header(slot).pointee.word = UInt32(EMBRYO_IDLE)
        }
        throw .numberTaken(pid: tid)
    }

    private static var threadArguments: CloneArguments {
        var arguments = CloneArguments()
        arguments.flags =
            CloneArguments.vm | CloneArguments.fs | CloneArguments.files | CloneArguments.sighand
            | CloneArguments.thread | CloneArguments.sysvsem
        return arguments
    }

    private func cloneCall(_ slot: UnsafeMutableRawPointer, _ object: String) throws(KernelError) -> Int32 {
        let scratch = slot + Int(EMBRYO_SCRATCH)
        return Int32(
            try call(
                Int32(EMBRYO_CLONE), .address(EmbryoSlot.address(scratch)), .int(CloneArguments.size),
                .address(EmbryoSlot.address(slot)), on: object
            ).value)
    }

    private func clone(
        _ number: Int32, _ template: CloneArguments, _ slot: UnsafeMutableRawPointer
    ) throws(RestoreError) {
        // The arguments lie in the new task's own slot, which nobody else uses yet.
        Self.prepare(template, number, slot)
        do throws(KernelError) { _ = try cloneCall(slot, "pid \(number)") } catch {
            throw Self.cloneError(error, number)
        }
    }

    /// Writes clone_args and the wanted number into the slot's scratch memory; returns where the pidfd will be.
    @discardableResult
    static func prepare(
        _ template: CloneArguments, _ number: Int32, _ slot: UnsafeMutableRawPointer, choosing: Bool = true
    ) -> UnsafeMutablePointer<Int32> {
        let scratch = slot + Int(EMBRYO_SCRATCH)
        var arguments = template
        arguments.stack = EmbryoSlot.address(slot) + UInt64(EmbryoRegion.slotSize) - UInt64(EMBRYO_STACK)
        arguments.stackSize = UInt64(EMBRYO_STACK)
        arguments.setTid = choosing ? EmbryoSlot.address(scratch + 128) : 0
        arguments.setTidSize = choosing ? 1 : 0
        (scratch + 128).storeBytes(of: number, as: Int32.self)
        let pidfd = (scratch + 136).assumingMemoryBound(to: Int32.self)
        if arguments.flags & CloneArguments.pidfd != 0 { arguments.pidfdAddress = EmbryoSlot.address(scratch + 136) }
        for (index, word) in arguments.words.enumerated() {
            (scratch + index * 8).storeBytes(of: word, as: UInt64.self)
        }
        return pidfd
    }

    static func cloneError(_ error: KernelError, _ number: Int32) -> RestoreError {
        if error.code == .exists { return .numberTaken(pid: number) }
        if error.call == "embryo" { return .embryoDied(pid: number, doing: error.object) }
        return .kernel(pid: number, step: "clone", error)
    }

    // MARK: end

    /// SIGKILL, and waits until it is gone; reaped when it is our own child.
    public func kill() {
        process.kill()
        if process.pidfd.hasEnded(milliseconds: 2000) { process.pidfd.reap() }
    }
}
