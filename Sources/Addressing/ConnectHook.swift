import CBPF
import CKernel
import CPrograms
import Glibc
import Kernel

/// Makes what a unit's processes send of their own accord come from the unit's virtual address.
///
/// BPF programs on the unit's cgroup (connect4/6, sendmsg4/6, bind4/6), held by pinned links so that they outlive this
/// process; systemd's own programs and those of others stay. A socket belongs to the cgroup in which it was made.
///
/// Not covered, because the kernel has no hook there: raw and ping sockets' sendto, UDP-Lite's connect, and a socket
/// that was bound to a port alone (or sent datagrams unconnected) before it connects: it keeps the host's address.
/// Where the address is not on the host, connect(2) fails with EADDRNOTAVAIL and an unconnected IPv4 datagram with
/// ENETUNREACH; an unconnected IPv6 datagram leaves with the address all the same. None ever gets the host's own.
public struct ConnectHook: Sendable {
    public struct Options: Sendable, Equatable {
        /// bind(2) to 0.0.0.0 or :: becomes a bind to the virtual address of the family, if there is one. A bind to ::
        /// that also serves IPv4 stays as it is when both families have an address.
        public var rewriteWildcardBinds: Bool
        public init(rewriteWildcardBinds: Bool = false) { self.rewriteWildcardBinds = rewriteWildcardBinds }
    }

    private static let programs = [
        "vip_connect4", "vip_connect6", "vip_sendmsg4", "vip_sendmsg6", "vip_bind4", "vip_bind6",
    ]

    private let directory: String

    /// `directory` lies on a bpf file system (bpf(2), BPF_OBJ_PIN).
    public init(directory: String = "/sys/fs/bpf/mobilityd") { self.directory = directory }

    /// Attaches to the cgroup at `cgroupPath` (a full path below the cgroup2 mount), with the first virtual address of
    /// each family as source. Repeatable: new links replace those of before, without a moment with neither, also when
    /// the addresses changed or the cgroup was made anew.
    public func attach(
        unit: String, cgroupPath: String, vips: [VirtualAddress], options: Options = Options()
    ) throws(AddressingError) {
        let pins = pinDirectory(unit)
        try preparePinDirectory(pins)
        let cgroup = try kernel { () throws(KernelError) in
            try FileDescriptor.open(cgroupPath, O_RDONLY | O_DIRECTORY)
        }
        let object = try ProgramObject(program_connect(), name: "connect")
        let map = try object.map("connect_options")
        try kernel { () throws(KernelError) in try map.set(UInt32(0), to: ConnectSettings(vips, options)) }
        // One program at a time: whichever of the old and the new runs first binds, the other finds the socket bound.
        for name in Self.programs { try object.attach(name, to: cgroup, at: cgroupPath, pinning: "\(pins)/\(name)") }
    }

    /// Ends the hook of a unit. Repeatable.
    public func detach(unit: String) throws(AddressingError) {
        let pins = pinDirectory(unit)
        guard Files.exists(pins) else { return }
        try kernel { () throws(KernelError) in
            for name in try Files.list(pins) { try Files.remove("\(pins)/\(name)") }
            _ = try systemCall("rmdir", on: pins) { rmdir(pins) }
        }
    }

    /// Whether every program is attached to just this cgroup: false when the cgroup was removed, or removed and made
    /// anew, since `attach`.
    public func isAttached(unit: String, cgroupPath: String) throws(AddressingError) -> Bool {
        let pins = pinDirectory(unit)
        var status = stat()
        guard stat(cgroupPath, &status) == 0 else { return false }
        for name in Self.programs {
            guard Files.exists("\(pins)/\(name)") else { return false }
            // The number of a cgroup's directory is its id (kernfs, on 64 bits).
            guard try attachedCgroup("\(pins)/\(name)") == status.st_ino else { return false }
        }
        return true
    }

    /// The id of the cgroup that a pinned link is attached to; 0 once that cgroup is gone.
    private func attachedCgroup(_ path: String) throws(AddressingError) -> UInt64 {
        try kernel { () throws(KernelError) in
            let raw = try systemCall("bpf", on: path) { max(-1, bpf_obj_get(path)) }
            let link = FileDescriptor(owning: raw)
            var information = bpf_link_info()
            var length = UInt32(MemoryLayout<bpf_link_info>.stride)
            try systemCall("bpf", on: path) {
                bpf_obj_get_info_by_fd(link.raw, &information, &length) == 0 ? Int32(0) : -1
            }
            return information.cgroup.cgroup_id
        }
    }

    /// Names on a bpf file system may contain no dot; as in D-Bus paths each byte that is no letter or digit becomes
    /// `_` and two hexadecimal digits.
    private func pinDirectory(_ unit: String) -> String {
        var escaped = ""
        for byte in unit.utf8 {
            switch byte {
            case 48...57, 65...90, 97...122: escaped.unicodeScalars.append(Unicode.Scalar(byte))
            default: escaped += (byte < 16 ? "_0" : "_") + String(byte, radix: 16)
            }
        }
        return "\(directory)/\(escaped)"
    }
}

/// struct connect_settings of connect.bpf.c: addresses in network order.
private struct ConnectSettings: BitwiseCopyable {
    var hasIPv4: UInt32 = 0
    var hasIPv6: UInt32 = 0
    var rewriteWildcardBinds: UInt32
    var ipv4: UInt32 = 0
    var ipv6: (UInt32, UInt32, UInt32, UInt32) = (0, 0, 0, 0)

    init(_ vips: [VirtualAddress], _ options: ConnectHook.Options) {
        rewriteWildcardBinds = options.rewriteWildcardBinds ? 1 : 0
        if let first = vips.first(where: { $0.family == .ipv4 }) {
            hasIPv4 = 1
            ipv4 = Self.word(first.bytes, 0)
        }
        if let first = vips.first(where: { $0.family == .ipv6 }) {
            hasIPv6 = 1
            ipv6 = (
                Self.word(first.bytes, 0), Self.word(first.bytes, 4), Self.word(first.bytes, 8),
                Self.word(first.bytes, 12)
            )
        }
    }

    private static func word(_ bytes: [UInt8], _ offset: Int) -> UInt32 {
        bytes.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: offset, as: UInt32.self) }
    }
}
