import CKernel
import Glibc
import Kernel

extension LabHost {
    /// Reads a file of the host, also of its /proc. Symbolic links resolve inside the host, openat2(2).
    public func read(_ path: String) throws -> [UInt8] { try open(path, O_RDONLY).readToEnd() }

    /// Reads a text file of the host.
    public func readText(_ path: String) throws -> String { String(decoding: try read(path), as: UTF8.self) }

    /// Writes a file of the host, with the directories above it.
    public func write(_ path: String, _ content: [UInt8], mode: UInt32 = 0o644) throws {
        if let slash = path.lastIndex(of: "/"), slash != path.startIndex {
            try run("mkdir", "-p", String(path[..<slash]))
        }
        try open(path, O_WRONLY | O_CREAT | O_TRUNC, mode: mode).writeAll(content)
    }

    /// Writes a text file of the host, with the directories above it.
    public func write(_ path: String, _ text: String, mode: UInt32 = 0o644) throws {
        try write(path, [UInt8](text.utf8), mode: mode)
    }

    /// Opens a file of the host from outside.
    public func open(_ path: String, _ flags: Int32, mode: UInt32 = 0) throws -> FileDescriptor {
        guard let identity else { return try FileDescriptor.open(path, flags, mode: mode) }
        guard identity.isAlive else { throw LabError("host \(name) is down; \(path) went with it") }
        let root = try FileDescriptor.open("/proc/\(identity.pid)/root", OpenFlag.path | O_DIRECTORY)
        var how = open_how()
        how.flags = UInt64(flags | O_CLOEXEC)
        how.mode = flags & O_CREAT != 0 ? UInt64(mode) : 0
        how.resolve = 0x10  // RESOLVE_IN_ROOT
        let raw = try systemCall("openat2", on: "\(name):\(path)") {
            withUnsafeMutablePointer(to: &how) { how in
                path.withCString {
                    ck_syscall(
                        437, Int(root.raw), Int(bitPattern: $0), Int(bitPattern: how),
                        MemoryLayout<open_how>.size, 0, 0)
                }
            }
        }
        return FileDescriptor(owning: Int32(raw))
    }
}
