import CKernel
import Glibc

/// pipe(7): a unidirectional channel, and what looks into one without emptying it.
public enum Pipe {
    /// F_GETPIPE_SZ and F_SETPIPE_SZ of <linux/fcntl.h>, which glibc shows only under _GNU_SOURCE.
    public static let getSize: Int32 = 1032
    public static let setSize: Int32 = 1031

    /// pipe2(2) with O_CLOEXEC | O_NONBLOCK.
    public static func make() throws(KernelError) -> Ends {
        var raw: (Int32, Int32) = (0, 0)
        try systemCall("pipe2") {
            withUnsafeMutablePointer(to: &raw) {
                ck_syscall(Int(SYS_pipe2), Int(bitPattern: $0), Int(O_CLOEXEC | O_NONBLOCK), 0, 0, 0, 0)
            }
        }
        return Ends(read: FileDescriptor(owning: raw.0), write: FileDescriptor(owning: raw.1))
    }

    public struct Ends: ~Copyable {
        public let read: FileDescriptor
        public let write: FileDescriptor
    }

    /// Bytes the pipe can hold.
    public static func capacity(_ end: borrowing FileDescriptor) throws(KernelError) -> Int32 {
        try systemCall("fcntl", on: "fd \(end.raw)") { [raw = end.raw] in ck_fcntl(raw, getSize, 0) }
    }

    /// What stands in the pipe, read without consuming it: tee(2) into a pipe of our own.
    public static func peek(_ readEnd: borrowing FileDescriptor) throws(KernelError) -> [UInt8] {
        let capacity = try capacity(readEnd)
        let copy = try make()
        let copyEnd = copy.write.raw
        try systemCall("fcntl", on: "pipe") { ck_fcntl(copyEnd, setSize, Int(capacity)) }
        let source = readEnd.raw
        do throws(KernelError) {
            let nonBlocking = 2  // SPLICE_F_NONBLOCK, splice(2)
            let count = try systemCall("tee", on: "fd \(source)") {
                ck_syscall(Int(SYS_tee), Int(source), Int(copyEnd), Int(capacity), nonBlocking, 0, 0)
            }
            var content: [UInt8] = []
            while content.count < count { content += try copy.read.read(upTo: count - content.count) }
            return content
        } catch  where error.code == .again {
            return []
        }
    }

    /// poll(2) without waiting: the events among `events` that hold now, and POLLERR or POLLHUP.
    public static func poll(_ end: borrowing FileDescriptor, _ events: Int32) throws(KernelError) -> Int32 {
        var entry = pollfd(fd: end.raw, events: Int16(events), revents: 0)
        try systemCall("poll", on: "fd \(entry.fd)") { Glibc.poll(&entry, 1, 0) }
        return Int32(entry.revents)
    }
}

extension FileDescriptor {
    /// Opens the same file anew with other flags, as a description of its own, through /proc/self/fd, proc(5).
    public func reopen(_ flags: Int32) throws(KernelError) -> FileDescriptor {
        try FileDescriptor.open("/proc/self/fd/\(raw)", flags)
    }

    /// pwrite(2) until all of `bytes` are written.
    public func writeAll(_ bytes: [UInt8], at offset: Int64) throws(KernelError) {
        var done = 0
        while done < bytes.count {
            done += try systemCall("pwrite", on: "fd \(raw)") {
                bytes.withUnsafeBytes {
                    Glibc.pwrite(raw, $0.baseAddress! + done, bytes.count - done, Int(offset) + done)
                }
            }
        }
    }
}

/// Open flags of <asm-generic/fcntl.h> that glibc shows only under _GNU_SOURCE.
public enum OpenFlag {
    public static let path: Int32 = 0o10000000
    public static let temporaryFile: Int32 = 0o20200000
    public static let direct: Int32 = 0o40000
    public static let noAccessTime: Int32 = 0o1000000
    /// O_ASYNC, fcntl_locking(2).
    public static let asynchronous: Int32 = 0o20000
    /// What fcntl(2) F_GETFL may return and open(2) takes again; the rest acts only at the first open.
    public static let reopenable: Int32 =
        O_ACCMODE | O_APPEND | O_NONBLOCK | O_SYNC | direct | noAccessTime | path | asynchronous | 0o100000
}
