import CKernel
import Glibc

/// An open file descriptor that closes itself: whoever holds the value owns the descriptor.
///
/// Borrow `raw` for the length of a call; `consume` with `release()` to hand ownership to C.
public struct FileDescriptor: ~Copyable, Sendable {
    public let raw: Int32

    /// Takes ownership of `raw`.
    public init(owning raw: Int32) { self.raw = raw }

    deinit { _ = Glibc.close(raw) }

    /// Gives up ownership; the caller closes.
    public consuming func release() -> Int32 {
        let raw = self.raw
        discard self
        return raw
    }

    /// open(2); O_CLOEXEC is always added.
    public static func open(_ path: String, _ flags: Int32, mode: UInt32 = 0) throws(KernelError) -> FileDescriptor {
        let raw = try systemCall("open", on: path) { ck_open(path, flags | O_CLOEXEC, mode) }
        return FileDescriptor(owning: raw)
    }

    /// fcntl(2) F_DUPFD_CLOEXEC at the lowest free number not below `minimum`.
    public func duplicate(minimum: Int32 = 0) throws(KernelError) -> FileDescriptor {
        let raw = try systemCall("fcntl", on: "fd \(raw)") { ck_fcntl(self.raw, F_DUPFD_CLOEXEC, Int(minimum)) }
        return FileDescriptor(owning: raw)
    }

    /// read(2) of at most `count` bytes; empty at end of file.
    public func read(upTo count: Int) throws(KernelError) -> [UInt8] {
        var failure: KernelError?
        let bytes = [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
            do throws(KernelError) {
                initialized = try systemCall("read", on: "fd \(raw)") { Glibc.read(raw, buffer.baseAddress, count) }
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
        return bytes
    }

    /// pread(2) of at most `count` bytes at `offset`.
    public func read(upTo count: Int, at offset: Int64) throws(KernelError) -> [UInt8] {
        var failure: KernelError?
        let bytes = [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
            do throws(KernelError) {
                initialized = try systemCall("pread", on: "fd \(raw)") {
                    Glibc.pread(raw, buffer.baseAddress, count, Int(offset))
                }
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
        return bytes
    }

    /// Reads to the end of the file.
    public func readToEnd(chunk: Int = 65536) throws(KernelError) -> [UInt8] {
        var all: [UInt8] = []
        while true {
            let piece = try read(upTo: chunk)
            if piece.isEmpty { return all }
            all += piece
        }
    }

    /// write(2) until all of `bytes` are written.
    public func writeAll(_ bytes: [UInt8]) throws(KernelError) {
        var done = 0
        while done < bytes.count {
            done += try systemCall("write", on: "fd \(raw)") {
                bytes.withUnsafeBytes { Glibc.write(raw, $0.baseAddress! + done, bytes.count - done) }
            }
        }
    }
}

/// Small whole-file operations, for /proc, /sys and configuration.
public enum Files {
    public static func read(_ path: String) throws(KernelError) -> [UInt8] {
        try FileDescriptor.open(path, O_RDONLY).readToEnd()
    }

    public static func readText(_ path: String) throws(KernelError) -> String {
        String(decoding: try read(path), as: UTF8.self)
    }

    /// One write(2) of the whole text: what control files of the kernel want.
    public static func writeControl(_ path: String, _ text: String) throws(KernelError) {
        let file = try FileDescriptor.open(path, O_WRONLY)
        let bytes = [UInt8](text.utf8)
        try systemCall("write", on: path) {
            bytes.withUnsafeBytes { Glibc.write(file.raw, $0.baseAddress, bytes.count) }
        }
    }

    /// Writes beside, fsyncs and renames, so that a reader sees the old content or the new, never a part.
    public static func writeAtomically(_ path: String, _ text: String, mode: UInt32 = 0o644) throws(KernelError) {
        let temporary = path + ".new"
        let file = try FileDescriptor.open(temporary, O_WRONLY | O_CREAT | O_TRUNC, mode: mode)
        do throws(KernelError) {
            try file.writeAll([UInt8](text.utf8))
            try systemCall("fsync", on: temporary) { fsync(file.raw) }
            try systemCall("rename", on: path) { rename(temporary, path) }
        } catch {
            unlink(temporary)
            throw error
        }
        try syncDirectory(of: path)
    }

    /// Makes the names beside `path` last through a loss of power: fsync(2) of a file does not do that for its name.
    public static func syncDirectory(of path: String) throws(KernelError) {
        let name = path.lastIndex(of: "/").map { String(path[..<$0]) } ?? "."
        let directory = try FileDescriptor.open(name.isEmpty ? "/" : name, O_RDONLY | O_DIRECTORY)
        try systemCall("fsync", on: name) { fsync(directory.raw) }
    }

    public static func readLink(_ path: String) throws(KernelError) -> String {
        var buffer = [UInt8](repeating: 0, count: 4096)
        let count = try systemCall("readlink", on: path) {
            buffer.withUnsafeMutableBytes { readlink(path, $0.bindMemory(to: CChar.self).baseAddress!, 4096) }
        }
        return String(decoding: buffer.prefix(count), as: UTF8.self)
    }

    /// The names in a directory, sorted, without `.` and `..`.
    public static func list(_ path: String) throws(KernelError) -> [String] {
        guard let directory = opendir(path) else {
            throw KernelError(call: "opendir", object: path, code: Errno(rawValue: ck_errno()))
        }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != "." && name != ".." { names.append(name) }
        }
        return names.sorted()
    }

    public static func exists(_ path: String) -> Bool { access(path, F_OK) == 0 }

    /// Whether a directory is there, stat(2), at the end of any symbolic links; false also when it cannot be looked at.
    public static func isDirectory(_ path: String) -> Bool {
        var status = Glibc.stat()
        return stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
    }

    public static func remove(_ path: String) throws(KernelError) {
        try systemCall("unlink", on: path) { unlink(path) }
    }

    /// mkdir -p.
    public static func makeDirectories(_ path: String, mode: UInt32 = 0o755) throws(KernelError) {
        var prefix = path.hasPrefix("/") ? "" : "."
        for part in path.split(separator: "/") {
            prefix += "/" + part
            do throws(KernelError) {
                try systemCall("mkdir", on: prefix) { mkdir(prefix, mode) }
            } catch  where error.code == .exists {}
        }
    }
}
