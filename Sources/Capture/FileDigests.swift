import CKernel
import Glibc
import Kernel
import ProcessImage
import Synchronization

/// SHA-256 of files, remembered as long as device, inode, size, mtime and ctime of the file stay the same.
public final class FileDigests: Sendable {
    private struct Key: Hashable {
        var device: UInt64
        var inode: UInt64
        var size: Int64
        var modified: [Int]
    }

    private let known = Mutex<[Key: Bytes]>([:])

    public init() {}

    /// Identity of the file that `opened` leads to (a path of this daemon, such as /proc/PID/exe), to be known as
    /// `path`. Only regular files have a digest.
    public func identity(path: String, opened: String, digesting: Bool = true) throws(KernelError) -> FileIdentity {
        var status = stat()
        try systemCall("stat", on: opened) { stat(opened, &status) }
        guard digesting, status.st_mode & S_IFMT == S_IFREG else {
            return FileIdentity(path: path, size: UInt64(status.st_size), mode: status.st_mode)
        }
        let key = Self.key(status)
        if let digest = known.withLock({ $0[key] }) {
            return FileIdentity(path: path, size: UInt64(status.st_size), mode: status.st_mode, digest: digest)
        }
        let file = try FileDescriptor.open(opened, O_RDONLY)
        let digest = try Self.digest(file, name: opened)
        // Only what did not change while it was read is remembered.
        try systemCall("fstat", on: opened) { fstat(file.raw, &status) }
        if Self.key(status) == key { known.withLock { $0[key] = digest } }
        return FileIdentity(path: path, size: UInt64(status.st_size), mode: status.st_mode, digest: digest)
    }

    private static func key(_ status: stat) -> Key {
        Key(
            device: UInt64(status.st_dev), inode: UInt64(status.st_ino), size: Int64(status.st_size),
            modified: [
                status.st_mtim.tv_sec, status.st_mtim.tv_nsec, status.st_ctim.tv_sec, status.st_ctim.tv_nsec,
            ])
    }

    private static func digest(_ file: borrowing FileDescriptor, name: String) throws(KernelError) -> Bytes {
        let buffer = TransferBuffer(capacity: 256 * 1024)
        var hash = SHA256()
        while true {
            let raw = file.raw
            let count = try systemCall("read", on: name) {
                Glibc.read(raw, buffer.mutableBytes.baseAddress, buffer.capacity)
            }
            if count == 0 { return Bytes(hash.finish()) }
            hash.update(UnsafeRawBufferPointer(rebasing: buffer.bytes.prefix(count)))
        }
    }
}
