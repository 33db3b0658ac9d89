import CKernel
import CPrograms
import Glibc
import Kernel

/// Has this host's own processes reach virtual addresses from an address of the host, so that their end of a
/// connection stays when the service moves away.
///
/// BPF programs on the root of the cgroup tree (connect4/6, sendmsg4/6), held by pinned links so that they outlive this
/// process. Sockets that choose their source themselves keep it. Not covered are a socket that was bound to a port
/// alone, raw and ping sockets: while the service is here they get the virtual address as their own.
public final class ClientHook: Sendable {
    private static let programs = ["client_connect4", "client_connect6", "client_sendmsg4", "client_sendmsg6"]
    private static let maps = ["client_sources", "client_network"]

    private let sources: ProgramMap

    /// Attaches the programs to the cgroup at `cgroupPath` for the calling thread's network namespace. `directory` lies
    /// on a bpf file system; links pinned there before are replaced, without a moment with neither.
    public init(directory: String, cgroupPath: String) throws(AddressingError) {
        try preparePinDirectory(directory)
        let object = try ProgramObject(program_clients(), name: "clients", pinning: Self.maps, in: directory)
        sources = try object.map("client_sources")
        let network = try object.map("client_network")
        let cgroup = try kernel { () throws(KernelError) in
            try network.set(UInt32(0), to: try Self.networkCookie())
            return try FileDescriptor.open(cgroupPath, O_RDONLY | O_DIRECTORY)
        }
        for name in Self.programs {
            try object.attach(name, to: cgroup, at: cgroupPath, pinning: "\(directory)/\(name)")
        }
    }

    /// From now on these virtual addresses are reached from these of the host, and no others are.
    public func set(_ pairs: [(virtual: VirtualAddress, own: VirtualAddress)]) throws(AddressingError) {
        try kernel { () throws(KernelError) in
            let wanted = Set(pairs.map { HoldAddress($0.virtual) })
            for key in try sources.keys(empty: HoldAddress.empty) where !wanted.contains(key) {
                try sources.remove(key)
            }
        }
        try add(pairs)
    }

    /// Besides those of before.
    public func add(_ pairs: [(virtual: VirtualAddress, own: VirtualAddress)]) throws(AddressingError) {
        try kernel { () throws(KernelError) in
            for pair in pairs { try sources.set(HoldAddress(pair.virtual), to: HoldAddress(pair.own)) }
        }
    }

    /// SO_NETNS_COOKIE, socket(7): the number of the calling thread's network namespace.
    private static func networkCookie() throws(KernelError) -> UInt64 {
        let raw = try systemCall("socket", on: "AF_INET") {
            socket(AF_INET, Int32(SOCK_DGRAM.rawValue) | ck_sock_cloexec(), 0)
        }
        let owner = FileDescriptor(owning: raw)
        let bytes = try Socket.option(owner, SOL_SOCKET, 71, limit: 8)
        return bytes.withUnsafeBytes { $0.loadUnaligned(as: UInt64.self) }
    }
}
