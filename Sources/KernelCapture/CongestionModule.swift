import CBPF
import CKernel
import CPrograms
import Glibc
import Kernel

/// What a sender knows of how much its path takes: TCP_INFO's snd_cwnd and snd_ssthresh, segments.
public struct CongestionWindow: Equatable, Sendable {
    public var segments: UInt32
    /// 0x7fffffff where no loss was seen.
    public var threshold: UInt32

    /// What a connection begins with: TCP_INIT_CWND and TCP_INFINITE_SSTHRESH, include/net/tcp.h.
    public static let initial = CongestionWindow(segments: 10, threshold: 0x7fff_ffff)

    public init(segments: UInt32, threshold: UInt32) {
        self.segments = segments
        self.threshold = threshold
    }
}

/// Gives connections the congestion window that they had on another host: no socket option does.
///
/// A congestion control of our own (BPF struct_ops) is chosen for the socket; it gives way at once to the one that was
/// there before, and sets the window. It is registered in the kernel as long as this value lives.
public final class CongestionModule: Sendable {
    /// libbpf's structures are not changed after loading.
    private struct Object: @unchecked Sendable {
        let pointer: OpaquePointer
        let windows: Int32
    }

    private static let option: (level: Int32, name: Int32) = (6, 13)  // TCP_CONGESTION, tcp(7)
    private let object: Object
    private let link: FileDescriptor
    private let name: String

    private init(_ object: Object, link: consuming FileDescriptor, name: String) {
        self.object = object
        self.link = link
        self.name = name
    }

    deinit { bpf_object__close(object.pointer) }

    /// Loads and registers it, under a name that no other daemon on this kernel has (hosts that are containers).
    public static func load() throws(CaptureModuleError) -> CongestionModule {
        let log = LibraryLog()
        defer { log.end() }
        let name =
            "mobility_" + (0..<6).map { _ in String("abcdefghijklmnopqrstuvwxyz".randomElement() ?? "x") }.joined()
        let bytes = renamed(name)
        let opened = bytes.withUnsafeBytes { CaptureModule.open($0, name: "congestion") }
        guard let pointer = opened else { throw failure("open the object", ck_errno(), log) }
        do throws(CaptureModuleError) {
            guard let operations = bpf_object__find_map_by_name(pointer, "congestion"),
                let windows = bpf_object__find_map_by_name(pointer, "windows")
            else { throw CaptureModuleError(problem: "a map is missing in the object", cause: nil, log: "") }
            // By a link the kernel takes it back when this process ends, however it does.
            bpf_map__set_map_flags(operations, 1 << 13)  // BPF_F_LINK
            let code = bpf_object__load(pointer)
            guard code == 0 else { throw failure("load the programs", -code, log) }
            guard let filled = bpf_map__attach_struct_ops(operations) else {
                throw failure("fill in the operations", ck_errno(), log)
            }
            bpf_link__disconnect(filled)
            bpf_link__destroy(filled)
            let link = try register(bpf_map__fd(operations), log)
            return CongestionModule(
                Object(pointer: pointer, windows: bpf_map__fd(windows)), link: link, name: name)
        } catch {
            bpf_object__close(pointer)
            throw error
        }
    }

    /// The object with the name in it replaced.
    private static func renamed(_ name: String) -> [UInt8] {
        let program = program_congestion()
        var bytes = [UInt8](UnsafeRawBufferPointer(start: program.start, count: program.length))
        let placeholder = Array("mobility_@@@@@@".utf8)
        let last = bytes.count - placeholder.count
        for start in 0...max(0, last) where bytes[start] == placeholder[0] {
            if bytes[start..<start + placeholder.count].elementsEqual(placeholder) {
                bytes.replaceSubrange(start..<start + placeholder.count, with: Array(name.utf8))
            }
        }
        return bytes
    }

    /// BPF_LINK_CREATE of bpf(2), which this libbpf has no call for.
    private static func register(_ map: Int32, _ log: LibraryLog) throws(CaptureModuleError) -> FileDescriptor {
        // union bpf_attr: map_fd, target_fd, attach_type BPF_STRUCT_OPS, flags; the rest 0.
        var attributes = [UInt32](repeating: 0, count: 16)
        attributes[0] = UInt32(map)
        attributes[2] = 44
        do throws(KernelError) {
            let raw = try systemCall("bpf", on: "BPF_LINK_CREATE") {
                attributes.withUnsafeMutableBytes {
                    ck_syscall(Int(SYS_bpf), 28, Int(bitPattern: $0.baseAddress), $0.count, 0, 0, 0)
                }
            }
            return FileDescriptor(owning: Int32(raw))
        } catch {
            throw CaptureModuleError(problem: "cannot register the congestion control", cause: error, log: log.text)
        }
    }

    private static func failure(_ what: String, _ code: Int32, _ log: LibraryLog) -> CaptureModuleError {
        CaptureModuleError(
            problem: "cannot \(what)",
            cause: KernelError(call: "bpf", object: "congestion", code: Errno(rawValue: code)),
            log: log.text)
    }

    /// Gives a connected socket the window. Its congestion control is the same as before afterwards, and begins anew.
    public func give(_ window: CongestionWindow, to socket: borrowing FileDescriptor) throws(KernelError) {
        var key = socket.raw
        let (windows, own) = (object.windows, Array(name.utf8))
        // struct congestion_window of congestion.h.
        var value = [max(1, window.segments), max(2, window.threshold)].flatMap { word in
            withUnsafeBytes(of: word) { Array($0) }
        }
        value += try Socket.option(socket, Self.option.level, Self.option.name, limit: 16)
        value += [UInt8](repeating: 0, count: 24 - value.count)
        try systemCall("bpf", on: "storage of fd \(key)") {
            bpf_map_update_elem(windows, &key, &value, 0) == 0 ? Int32(0) : -1
        }
        defer { bpf_map_delete_elem(windows, &key) }
        try Socket.setOption(socket, Self.option.level, Self.option.name, own)
        // Where the other one could not be chosen ours would stay.
        let before = Array(value[8...].prefix { $0 != 0 })
        if try Socket.option(socket, Self.option.level, Self.option.name, limit: 16).starts(with: own) {
            try Socket.setOption(socket, Self.option.level, Self.option.name, before)
        }
    }
}
