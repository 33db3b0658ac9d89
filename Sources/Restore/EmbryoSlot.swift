import CEmbryo
import CKernel
import Glibc
import Kernel
import Resources

/// The pidfd of a process, shared by its threads' slots.
final class ProcessHandle: Sendable {
    let pidfd: Pidfd
    var pid: Int32 { pidfd.pid }

    init(pid: Int32) throws(KernelError) { pidfd = try Pidfd(pid: pid) }

    var hasEnded: Bool { pidfd.hasEnded() }

    func kill() { try? pidfd.signal(SIGKILL) }
}

/// One thread of an embryo: performs batches of system calls.
final class EmbryoSlot {
    let base: UnsafeMutableRawPointer
    let tid: Int32
    let process: ProcessHandle

    private static let scratchStart = Int(EMBRYO_SCRATCH)
    private static let scratchEnd = EmbryoRegion.slotSize - Int(EMBRYO_STACK)
    private static let callsOffset = 16
    /// A batch that takes longer than this hangs in the kernel for a reason nobody foresaw.
    private static let patience: Int64 = 30_000_000_000

    init(base: UnsafeMutableRawPointer, tid: Int32, process: ProcessHandle) {
        self.base = base
        self.tid = tid
        self.process = process
    }

    static func header(_ base: UnsafeMutableRawPointer) -> UnsafeMutablePointer<embryo_slot> {
        base.assumingMemoryBound(to: embryo_slot.self)
    }

    static func address(_ pointer: UnsafeMutableRawPointer) -> UInt64 { UInt64(UInt(bitPattern: pointer)) }

    private static func calls(_ base: UnsafeMutableRawPointer) -> UnsafeMutablePointer<embryo_call> {
        (base + callsOffset).assumingMemoryBound(to: embryo_call.self)
    }

    /// A prepared call and where its outputs will be.
    private struct Prepared {
        var outputs: [(offset: Int, count: Int)] = []
    }

    /// Performs all calls, in as many round trips as scratch memory asks for.
    func run(_ calls: [EmbryoCall]) throws(KernelError) -> [EmbryoResult] {
        var results: [EmbryoResult] = []
        results.reserveCapacity(calls.count)
        var first = 0
        while first < calls.count {
            var used = Self.scratchStart
            var prepared: [Prepared] = []
            var next = first
            while next < calls.count, prepared.count < Int(EMBRYO_CALLS),
                used + Self.scratchNeed(calls[next]) <= Self.scratchEnd,
                !(prepared.count > 500 && calls[next].takes == nil)
            {
                prepared.append(Self.store(calls[next], in: base, at: prepared.count, &used))
                next += 1
            }
            guard next > first else {
                throw KernelError(call: "embryo argument", object: calls[first].object, code: Errno(rawValue: E2BIG))
            }
            results += try perform(calls[first..<next], prepared)
            first = next
        }
        return results
    }

    /// Hands over one call and does not wait: for calls that block or never come back.
    func post(_ call: EmbryoCall) {
        var used = Self.scratchStart
        _ = Self.store(call, in: base, at: 0, &used)
        Self.header(base).pointee.count = 1
        embryo_post(Self.header(base))
    }

    /// Puts a batch into the slot of a process that is yet to be made, which performs it before anything else, whatever
    /// becomes of this one. Its calls have numbers for arguments only.
    static func preload(_ calls: [EmbryoCall], in base: UnsafeMutableRawPointer) throws(KernelError) {
        for (index, call) in calls.enumerated() {
            let name = CallNames.name(call.number)
            if let code = FaultSeam.forcedError(named: "embryo \(name)") {
                throw KernelError(call: name, object: call.object, code: code)
            }
            var used = scratchStart
            _ = store(call, in: base, at: index, &used)
        }
        header(base).pointee.count = UInt32(calls.count)
        embryo_post(header(base))
    }

    /// Awaits a batch that was preloaded.
    func finish(_ calls: [EmbryoCall]) throws(KernelError) {
        _ = try collect(calls[...], calls.map { _ in Prepared() }, forced: [:])
    }

    /// The result of a posted call when it has come back.
    var postedResult: Int? {
        embryo_is_done(Self.header(base)) != 0 ? Int(Self.calls(base)[0].result) : nil
    }

    private static func scratchNeed(_ call: EmbryoCall) -> Int {
        call.arguments.reduce(0) { sum, argument in
            switch argument {
            case .int: sum
            case .bytes(let bytes), .exchange(let bytes): sum + (bytes.count + 31) & ~15
            case .output(let count): sum + (count + 31) & ~15
            }
        }
    }

    private static func store(
        _ call: EmbryoCall, in base: UnsafeMutableRawPointer, at index: Int, _ used: inout Int
    ) -> Prepared {
        var prepared = Prepared()
        var values = [Int64](repeating: 0, count: 6)
        for (position, argument) in call.arguments.enumerated() {
            switch argument {
            case .int(let value): values[position] = Int64(value)
            case .bytes(let bytes), .exchange(let bytes):
                bytes.withUnsafeBytes { source in
                    if let start = source.baseAddress { (base + used).copyMemory(from: start, byteCount: bytes.count) }
                }
                if case .exchange = argument { prepared.outputs.append((used, bytes.count)) }
                values[position] = Int64(bitPattern: address(base + used))
                used += (bytes.count + 31) & ~15
            case .output(let count):
                memset(base + used, 0, count)
                prepared.outputs.append((used, count))
                values[position] = Int64(bitPattern: address(base + used))
                used += (count + 31) & ~15
            }
        }
        let slot = calls(base) + index
        slot.pointee.number = Int64(call.number)
        slot.pointee.arguments = (values[0], values[1], values[2], values[3], values[4], values[5])
        slot.pointee.result = 0
        slot.pointee.flags = call.mustSucceed ? UInt32(EMBRYO_STOP_ON_ERROR) : 0
        slot.pointee.take = call.takes.map { 1 << UInt32($0.argument) } ?? 0
        slot.pointee.from = UInt32(call.takes?.distance ?? 0)
        return prepared
    }

    private func perform(_ calls: ArraySlice<EmbryoCall>, _ prepared: [Prepared]) throws(KernelError) -> [EmbryoResult]
    {
        let header = Self.header(base)
        // The seam: a test makes the n-th batch fail without reaching the embryo.
        try systemCall("embryo call", on: calls.first?.object ?? "") { 0 }
        var forced: [Int: Errno] = [:]
        for (index, call) in calls.enumerated() {
            let name = CallNames.name(call.number)
            guard let code = FaultSeam.forcedError(named: "embryo \(name)") else { continue }
            if call.mustSucceed { throw KernelError(call: name, object: call.object, code: code) }
            // Its caller judges the result: the batch runs, with a number there that no kernel has.
            forced[index] = code
            Self.calls(base)[index].number = -1
        }
        header.pointee.count = UInt32(calls.count)
        embryo_post(header)
        return try collect(calls, prepared, forced: forced)
    }

    private func collect(
        _ calls: ArraySlice<EmbryoCall>, _ prepared: [Prepared], forced: [Int: Errno]
    ) throws(KernelError) -> [EmbryoResult] {
        let header = Self.header(base)
        let deadline = Clock.monotonic + Self.patience
        while embryo_await(header, 4_000_000) == 0 {
            if process.hasEnded {
                let what = calls.first?.object ?? ""
                throw KernelError(call: "embryo", object: "pid \(process.pid) ended: \(what)", code: .noProcess)
            }
            if Clock.monotonic > deadline {
                throw KernelError(call: "embryo batch", object: calls.first?.object ?? "", code: .timedOut)
            }
        }
        let performed = Int(header.pointee.performed)
        var results: [EmbryoResult] = []
        for (index, call) in calls.enumerated() where index < performed {
            let value = forced[index].map { -Int($0.rawValue) } ?? Int(Self.calls(base)[index].result)
            if value < 0, value >= -4095, call.mustSucceed {
                throw KernelError(
                    call: CallNames.name(call.number), object: call.object, code: Errno(rawValue: Int32(-value)))
            }
            let outputs = prepared[index].outputs.map { output in
                [UInt8](UnsafeRawBufferPointer(start: base + output.offset, count: output.count))
            }
            results.append(EmbryoResult(value: value, outputs: outputs))
        }
        return results
    }
}

/// Names of the system calls embryos perform, for errors.
enum CallNames {
    private static let names: [Int32: String] = [
        Int32(SYS_mmap): "mmap", Int32(SYS_munmap): "munmap", Int32(SYS_mprotect): "mprotect",
        Int32(SYS_mremap): "mremap", Int32(SYS_madvise): "madvise", Int32(SYS_open): "open",
        Int32(SYS_openat): "openat", Int32(SYS_close): "close", Int32(SYS_dup3): "dup3", Int32(SYS_fcntl): "fcntl",
        Int32(SYS_ioctl): "ioctl", Int32(SYS_socket): "socket", Int32(SYS_bind): "bind",
        Int32(SYS_connect): "connect", Int32(SYS_listen): "listen", Int32(SYS_setsockopt): "setsockopt",
        Int32(SYS_prctl): "prctl", Int32(SYS_setsid): "setsid", Int32(SYS_setpgid): "setpgid",
        Int32(SYS_setns): "setns", Int32(SYS_chdir): "chdir", Int32(SYS_fchdir): "fchdir", Int32(SYS_chroot): "chroot",
        Int32(SYS_rt_sigaction): "rt_sigaction", Int32(SYS_rt_sigqueueinfo): "rt_sigqueueinfo",
        Int32(SYS_rt_tgsigqueueinfo): "rt_tgsigqueueinfo", Int32(SYS_setresuid): "setresuid",
        Int32(SYS_setresgid): "setresgid", Int32(SYS_setgroups): "setgroups", Int32(SYS_capset): "capset",
        Int32(SYS_seccomp): "seccomp", Int32(SYS_rseq): "rseq", Int32(SYS_pidfd_getfd): "pidfd_getfd",
        Int32(SYS_pidfd_open): "pidfd_open", Int32(SYS_close_range): "close_range",
        Int32(SYS_sched_setattr): "sched_setattr", Int32(SYS_epoll_ctl): "epoll_ctl", Int32(SYS_mlock2): "mlock2",
        Int32(SYS_pipe2): "pipe2", Int32(SYS_write): "write", -1: "clone3",
    ]

    static func name(_ number: Int32) -> String { names[number] ?? "system call \(number)" }
}
