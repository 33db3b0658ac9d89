import CKernel
import Glibc
import Kernel
import ProcessImage

/// Files that belong to the running unit and live on one host only: its PIDFile, RuntimeDirectory and private /tmp.
///
/// They are small by nature; what exceeds the bound is a failed step that names the file, not a slow one.
public struct LocalState: Codable, Sendable {
    public struct Entry: Codable, Sendable {
        public var path: String
        /// st_mode: type and permissions.
        public var mode: UInt32
        public var user: UInt32
        public var group: UInt32
        /// Content of a regular file, target of a symbolic link.
        public var content: Bytes
        /// Seen inside the unit's own mounts: its private /tmp.
        public var isPrivate: Bool
    }

    /// Bytes of all contents together: 32 MiB.
    public static let limit = 32 << 20

    public var entries: [Entry] = []
    public init() {}

    /// Adds `path` of the host, and what is below it when it is a directory. Sockets and FIFOs are made by the
    /// descriptors that own them; a path that is not there adds nothing.
    ///
    /// With `root`, `/proc/PID/root` of a process of the unit, the path is one of the unit's own mounts.
    public mutating func add(_ path: String, root: String? = nil) throws(KernelError) {
        guard try addAlone(path, root: root) else { return }
        for name in try Files.list((root ?? "") + path) { try add("\(path)/\(name)", root: root) }
    }

    /// Adds `path` without what is below it; true when it is a directory.
    @discardableResult
    mutating func addAlone(_ path: String, root: String? = nil) throws(KernelError) -> Bool {
        var status = stat()
        let real = (root ?? "") + path
        guard lstat(real, &status) == 0 else { return false }
        var entry = Entry(
            path: path, mode: status.st_mode, user: status.st_uid, group: status.st_gid, content: Bytes(),
            isPrivate: root != nil)
        switch status.st_mode & S_IFMT {
        case S_IFREG: entry.content = Bytes(try Files.read(real))
        case S_IFLNK: entry.content = Bytes(Array(try Files.readLink(real).utf8))
        case S_IFDIR: break
        default: return false
        }
        entries.append(entry)
        let total = entries.reduce(0) { $0 + $1.content.count }
        guard total <= Self.limit else {
            throw KernelError(call: "read", object: path, code: Errno(rawValue: EFBIG))
        }
        return status.st_mode & S_IFMT == S_IFDIR
    }

    /// Makes the entries on this host. A directory that exists keeps its content and takes mode and owner.
    ///
    /// The paths come from the other node: only those below `allowed` are accepted, without `..`, and no symbolic
    /// link is followed in the last component.
    public func place(allowed: [String], root: String) throws(KernelError) {
        for entry in entries {
            let places = entry.isPrivate ? Self.privatePlaces : allowed
            let permitted = places.contains { entry.path == $0 || entry.path.hasPrefix($0 + "/") }
            guard permitted, !entry.path.split(separator: "/").contains("..") else {
                throw KernelError(call: "open", object: entry.path, code: .notPermitted)
            }
            try place(entry, at: entry.isPrivate ? root + entry.path : entry.path)
        }
    }

    /// What PrivateTmp= gives a unit of its own, systemd.exec(5).
    static let privatePlaces = ["/tmp", "/var/tmp"]

    private func place(_ entry: Entry, at path: String) throws(KernelError) {
        switch entry.mode & S_IFMT {
        case S_IFDIR:
            try Files.makeDirectories(path)
        case S_IFLNK:
            unlink(path)
            try systemCall("symlink", on: path) {
                symlink(String(decoding: entry.content.content, as: UTF8.self), path)
            }
        default:
            unlink(path)
            let file = try FileDescriptor.open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode: 0o600)
            try file.writeAll(entry.content.content)
        }
        try systemCall("lchown", on: path) { lchown(path, entry.user, entry.group) }
        if entry.mode & S_IFMT != S_IFLNK {
            try systemCall("chmod", on: path) { chmod(path, entry.mode & 0o7777) }
        }
    }
}
