import CKernel
import Glibc

/// A kind of namespace, namespaces(7).
public struct NamespaceKind: Hashable, Sendable {
    /// Name under /proc/PID/ns.
    public let name: String
    /// The CLONE_NEW… flag for setns(2).
    public let flag: Int32

    public static let mount = NamespaceKind(name: "mnt", flag: 0x2_0000)
    public static let user = NamespaceKind(name: "user", flag: 0x1000_0000)
    public static let ipc = NamespaceKind(name: "ipc", flag: 0x800_0000)
    public static let uts = NamespaceKind(name: "uts", flag: 0x400_0000)
    public static let cgroup = NamespaceKind(name: "cgroup", flag: 0x200_0000)
    public static let pid = NamespaceKind(name: "pid", flag: 0x2000_0000)
    public static let network = NamespaceKind(name: "net", flag: 0x4000_0000)
    public static let time = NamespaceKind(name: "time", flag: 0x80)

    /// `kind:[inode]` of a process's namespace.
    public func identity(of pid: Int32) throws(KernelError) -> String {
        try Files.readLink("/proc/\(pid)/ns/\(name)")
    }

    public func open(of pid: Int32) throws(KernelError) -> FileDescriptor {
        try FileDescriptor.open("/proc/\(pid)/ns/\(name)", O_RDONLY)
    }
}
