import CKernel
import Glibc

/// The f_type of statfs(2), by which some files are told from others.
public struct FileSystemType: Equatable, Sendable {
    public let magic: Int

    public static let messageQueues = FileSystemType(magic: 0x1980_0202)
    public static let secretMemory = FileSystemType(magic: 0x5345_434d)
    public static let hugePages = FileSystemType(magic: 0x9584_58f6)

    public init(magic: Int) { self.magic = magic }

    /// Of the file at the end of `path`.
    public init(at path: String) throws(KernelError) {
        // struct statfs has 120 bytes and begins with f_type.
        var status = [Int](repeating: 0, count: 15)
        try systemCall("statfs", on: path) {
            path.withCString { name in
                status.withUnsafeMutableBytes {
                    ck_syscall(
                        Int(SYS_statfs), Int(bitPattern: name), Int(bitPattern: $0.baseAddress), 0, 0, 0, 0)
                }
            }
        }
        magic = status[0]
    }
}
