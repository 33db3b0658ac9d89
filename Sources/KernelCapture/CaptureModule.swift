import CBPF
import CKernel
import CPrograms
import Glibc
import Kernel
import Synchronization

/// The capture module cannot be used: what was tried and what the kernel or libbpf said, the verifier's log included.
public struct CaptureModuleError: Error, Sendable, CustomStringConvertible {
    public var problem: String
    public var cause: KernelError?
    /// libbpf's warnings and the end of the verifier's log, empty when there is none.
    public var log: String

    public var description: String {
        "capture module: \(problem)\(cause.map { ": \($0)" } ?? "")\(log.isEmpty ? "" : "\n\(log)")"
    }
}

/// Whether this kernel can run the capture module.
public enum CaptureSupport: Equatable, Sendable {
    case yes
    /// What it lacks, for example `Linux ≥ 6.12 (this is 6.1.0)`.
    case no(needs: String)
    case unknown(why: String)
}

/// The kernel capture module: BPF iterators that read tasks and open files without stopping or changing them.
public final class CaptureModule: Sendable {
    /// The loaded object. libbpf's structures are not changed after loading; passes are serialised by `buffer`,
    /// because the programs write into one scratch area.
    private struct Object: @unchecked Sendable {
        let pointer: OpaquePointer
        let threadsProgram: Int32
        let filesProgram: Int32
        let handshakesProgram: Int32
        let gapsProgram: Int32
    }

    private let object: Object
    private let buffer = Mutex<[UInt8]>([])

    private init(_ object: Object) { self.object = object }

    deinit { bpf_object__close(object.pointer) }

    /// Loads the programs into the kernel; needs CAP_BPF and CAP_PERFMON, which root has.
    public static func load() throws(CaptureModuleError) -> CaptureModule {
        let log = LibraryLog()
        defer { log.end() }
        let program = program_capture()
        let bytes = UnsafeRawBufferPointer(start: program.start, count: program.length)
        guard let pointer = open(bytes, name: "capture") else {
            throw CaptureModuleError(
                problem: "cannot open the object", cause: lastError("bpf_object__open_mem"), log: log.text)
        }
        let code = bpf_object__load(pointer)
        guard code == 0 else {
            bpf_object__close(pointer)
            let cause = KernelError(call: "bpf", object: "BPF_PROG_LOAD", code: Errno(rawValue: -code))
            throw CaptureModuleError(problem: "the kernel does not take the programs", cause: cause, log: log.text)
        }
        guard let threads = bpf_object__find_program_by_name(pointer, "capture_threads"),
            let files = bpf_object__find_program_by_name(pointer, "capture_files"),
            let handshakes = bpf_object__find_program_by_name(pointer, "capture_handshakes"),
            let gaps = bpf_object__find_program_by_name(pointer, "capture_gaps")
        else {
            bpf_object__close(pointer)
            throw CaptureModuleError(problem: "a program is missing in the object", cause: nil, log: "")
        }
        return CaptureModule(
            Object(
                pointer: pointer, threadsProgram: bpf_program__fd(threads), filesProgram: bpf_program__fd(files),
                handshakesProgram: bpf_program__fd(handshakes), gapsProgram: bpf_program__fd(gaps)))
    }

    /// An object file as libbpf has it; nil, and errno, if it cannot read it.
    static func open(_ bytes: UnsafeRawBufferPointer, name: String) -> OpaquePointer? {
        var options = bpf_object_open_opts()
        options.sz = (MemoryLayout<bpf_object_open_opts>.offset(of: \.kernel_log_level) ?? 64) + 4
        return name.withCString { name in
            options.object_name = name
            return bpf_object__open_mem(bytes.baseAddress, bytes.count, &options)
        }
    }

    private static func lastError(_ call: String) -> KernelError {
        KernelError(call: call, object: "", code: Errno(rawValue: ck_errno()))
    }

    /// Asks the kernel by loading the programs, after the two reasons that can be named without it.
    public static func probe() -> CaptureSupport {
        var name = utsname()
        guard uname(&name) == 0 else { return .unknown(why: "uname failed") }
        let release = withUnsafeBytes(of: &name.release) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        let numbers = release.split { !$0.isNumber }.prefix(2).compactMap { Int($0) }
        if numbers.count == 2, (numbers[0], numbers[1]) < (6, 12) {
            return .no(needs: "Linux ≥ 6.12 (this is \(release))")
        }
        guard Files.exists("/sys/kernel/btf/vmlinux") else {
            return .no(needs: "CONFIG_DEBUG_INFO_BTF=y: /sys/kernel/btf/vmlinux is missing")
        }
        do throws(CaptureModuleError) {
            _ = try load()
            return .yes
        } catch {
            if let code = error.cause?.code, code == .notPermitted || code == .noMemory {
                return .unknown(why: "\(error)")
            }
            return .no(needs: "a kernel that takes the capture programs; \(error)")
        }
    }

    /// Processes and threads of a cgroup and of the groups below it. Processes that end meanwhile are left out.
    public func tasks(of cgroup: Cgroup) throws(CaptureModuleError) -> [TaskRecord] {
        let pids: [Int32]
        do throws(KernelError) { pids = try cgroup.processes() } catch {
            throw CaptureModuleError(problem: "cannot list the processes", cause: error, log: "")
        }
        return try tasks(pids: pids.filter { $0 > 0 })
    }

    /// Processes and their threads, leaders first.
    public func tasks(pids: [Int32]) throws(CaptureModuleError) -> [TaskRecord] {
        try records(object.threadsProgram, pids: pids, RecordDecoder.tasks)
    }

    /// Open files of these processes. Threads whose files_struct is not the leader's are reported as well, with the
    /// same pid.
    public func files(pids: [Int32]) throws(CaptureModuleError) -> [FileRecord] {
        try records(object.filesProgram, pids: pids, RecordDecoder.files)
    }

    /// TCP handshakes of this network namespace whose last segment has not come.
    public func handshakes() throws(CaptureModuleError) -> [HandshakeRecord] {
        try records(object.handshakesProgram, pids: [nil], RecordDecoder.handshakes)
    }

    /// TCP connections of this network namespace that have received something out of order.
    public func gaps() throws(CaptureModuleError) -> [GapRecord] {
        try records(object.gapsProgram, pids: [nil], RecordDecoder.gaps)
    }

    private func records<Record>(
        _ program: Int32, pids: [Int32?], _ decode: ([UInt8]) throws(RecordError) -> [Record]
    ) throws(CaptureModuleError) -> [Record] {
        let stream = try pass(program, pids: pids)
        do throws(RecordError) { return try decode(stream) } catch {
            throw CaptureModuleError(problem: "\(error)", cause: nil, log: "")
        }
    }

    private func pass(_ program: Int32, pids: [Int32?]) throws(CaptureModuleError) -> [UInt8] {
        var result: [UInt8] = []
        var failure: KernelError?
        buffer.withLock { buffer in
            if buffer.isEmpty { buffer = [UInt8](repeating: 0, count: 256 * 1024) }
            do throws(KernelError) {
                for pid in pids { try Self.iterate(program, pid: pid, &buffer, &result) }
            } catch {
                failure = error
            }
        }
        if let failure { throw CaptureModuleError(problem: "the pass failed", cause: failure, log: "") }
        return result
    }

    /// One iterator over the threads of `pid`, read to its end; without one, over what the program is about.
    private static func iterate(
        _ program: Int32, pid: Int32?, _ buffer: inout [UInt8], _ result: inout [UInt8]
    ) throws(KernelError) {
        var info = bpf_iter_link_info()
        let place = pid.map { "pid \($0)" } ?? "sockets"
        if let pid { info.task.pid = UInt32(bitPattern: pid) }
        var options = bpf_link_create_opts()
        options.sz = MemoryLayout<bpf_link_create_opts>.size
        let link = withUnsafeMutablePointer(to: &info) { info in
            if pid != nil {
                options.iter_info_len = UInt32(MemoryLayout<bpf_iter_link_info>.size)
                options.iter_info = info
            }
            return bpf_link_create(program, 0, BPF_TRACE_ITER, &options)
        }
        // The process has ended.
        if link == -ESRCH { return }
        guard link >= 0 else {
            throw KernelError(call: "bpf", object: "BPF_LINK_CREATE \(place)", code: Errno(rawValue: -link))
        }
        let linkDescriptor = FileDescriptor(owning: link)
        let raw = bpf_iter_create(linkDescriptor.raw)
        guard raw >= 0 else {
            throw KernelError(call: "bpf", object: "BPF_ITER_CREATE \(place)", code: Errno(rawValue: -raw))
        }
        let iterator = FileDescriptor(owning: raw)
        while true {
            let count = try systemCall("read", on: "iterator of \(place)") {
                buffer.withUnsafeMutableBytes { Glibc.read(iterator.raw, $0.baseAddress, $0.count) }
            }
            if count == 0 { return }
            result.append(contentsOf: buffer[0..<count])
        }
    }
}

/// Gathers what libbpf would print, for the length of one load.
final class LibraryLog {
    private static let lines = Mutex<String>("")
    private let previous: libbpf_print_fn_t?

    init() {
        Self.lines.withLock { $0 = "" }
        previous = libbpf_set_print { level, format, arguments in
            guard level == LIBBPF_WARN, let format, let arguments else { return 0 }
            var buffer = [CChar](repeating: 0, count: 16384)
            let count = Int(vsnprintf(&buffer, buffer.count, format, arguments))
            let text = buffer.prefix(max(0, min(count, buffer.count - 1))).map { UInt8(bitPattern: $0) }
            LibraryLog.lines.withLock { lines in
                lines += String(decoding: text, as: UTF8.self)
                // The end of a verifier's log says why.
                if lines.utf8.count > 65536 { lines = String(lines.suffix(65536)) }
            }
            return 0
        }
    }

    var text: String { Self.lines.withLock { $0 } }

    func end() { _ = libbpf_set_print(previous) }
}
