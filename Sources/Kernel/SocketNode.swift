import CKernel
import Glibc

/// The node in a file system that a unix socket is bound to, lstat(2).
public struct SocketNode: Sendable {
    /// st_mode, type and permission bits.
    public let mode: UInt32
    public let user: UInt32
    public let group: UInt32

    /// Nil when nothing is there, or something else than a socket.
    public init?(path: String) {
        var status = stat()
        guard (try? systemCall("lstat", on: path) { lstat(path, &status) }) != nil,
            status.st_mode & S_IFMT == S_IFSOCK
        else { return nil }
        mode = status.st_mode
        user = status.st_uid
        group = status.st_gid
    }
}
