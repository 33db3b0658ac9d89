import CKernel
import Glibc
import Kernel
import ProcessImage

extension FileDescriptorKind {
    public static func restore(
        _ description: DescriptionImage, index: Int32, in embryo: any EmbryoPort, context: any RestoreContext
    ) throws(ResourceError) -> Int32 {
        let record = try Payload.decode(Record.self, from: description, index: index)
        let path = record.identity.path
        let subject = "pid \(embryo.pid) \(path)"
        let flags = description.statusFlags & OpenFlag.reopenable
        return try step(subject, "cannot be opened") { () throws(KernelError) in
            let number =
                switch record.manner {
                case .byPath: try open(path, flags, in: embryo)
                case .log: try openLog(record, flags, in: embryo)
                case .unlinked: try openUnlinked(record, flags, index, in: embryo, context)
                }
            if record.manner != .log && flags & OpenFlag.path == 0 && record.position > 0 {
                try embryo.call(
                    SYS_lseek, .int(number), .int(Int(record.position)), .int(SEEK_SET), on: path)
            }
            return number
        }
    }

    private static func open(_ path: String, _ flags: Int32, in embryo: any EmbryoPort) throws(KernelError) -> Int32 {
        Int32(try embryo.call(SYS_openat, .int(AT_FDCWD), .path(path), .int(flags), .int(0), on: path).value)
    }

    /// A log that is not there yet is made with the owner and mode it has on the source.
    private static func openLog(
        _ record: Record, _ flags: Int32, in embryo: any EmbryoPort
    ) throws(KernelError) -> Int32 {
        let path = record.identity.path
        do throws(KernelError) {
            return try open(path, flags, in: embryo)
        } catch  where error.code == .noEntry {
            let mode = Int(record.identity.mode & 0o7777)
            let number = Int32(
                try embryo.call(
                    SYS_openat, .int(AT_FDCWD), .path(path), .int(flags | O_CREAT), .int(mode), on: path
                ).value)
            try embryo.call(
                SYS_fchown, .int(number), .int(Int(record.user)), .int(Int(record.group)), on: path)
            try embryo.call(SYS_fchmod, .int(number), .int(mode), on: path)
            return number
        }
    }

    /// Another description of the same file shares what the first one has made.
    private static func openUnlinked(
        _ record: Record, _ flags: Int32, _ index: Int32, in embryo: any EmbryoPort, _ context: any RestoreContext
    ) throws(KernelError) -> Int32 {
        for earlier in 0..<index {
            guard let other = Self.record(of: context.image.descriptions[Int(earlier)], index: earlier),
                other.manner == .unlinked, other.device == record.device, other.inode == record.inode
            else { continue }
            return try embryo.give(try context.take(description: earlier).reopen(flags), minimum: 0)
        }
        return try makeUnlinked(record, flags, in: embryo)
    }

    /// O_TMPFILE in the directory the file once had a name in, filled, then opened anew with the flags it had.
    private static func makeUnlinked(
        _ record: Record, _ flags: Int32, in embryo: any EmbryoPort
    ) throws(KernelError) -> Int32 {
        let path = record.identity.path
        let directory = path.split(separator: "/").dropLast().reduce("") { $0 + "/" + $1 }
        let mode = Int(record.identity.mode & 0o7777)
        let number = Int32(
            try embryo.call(
                SYS_openat, .int(AT_FDCWD), .path(directory.isEmpty ? "/" : directory),
                .int(OpenFlag.temporaryFile | O_RDWR), .int(mode), on: path
            ).value)
        try embryo.call(SYS_fchown, .int(number), .int(Int(record.user)), .int(Int(record.group)), on: path)
        let ours = try embryo.take(number)
        try ours.writeAll(record.content.content, at: 0)
        if flags & O_ACCMODE == O_RDWR && flags & (O_APPEND | OpenFlag.direct | OpenFlag.path) == 0 {
            let status = Int(flags & ~O_ACCMODE)
            try embryo.call(SYS_fcntl, .int(number), .int(F_SETFL), .int(status), on: path)
            return number
        }
        let again = try embryo.give(try ours.reopen(flags), minimum: 0)
        try embryo.call(SYS_close, .int(number), on: path)
        return again
    }

    public static func connect(
        _ description: DescriptionImage, index: Int32, number: Int32, in embryo: any EmbryoPort,
        context: any RestoreContext
    ) throws(ResourceError) {
        let record = try Payload.decode(Record.self, from: description, index: index)
        for lock in record.locks {
            let subject = "pid \(lock.pid) \(record.identity.path)"
            _ = try step(subject, "cannot take its lock") { () throws(KernelError) in
                if lock.isRecord {
                    try setRecordLock(lock, index: index, context: context, on: subject)
                } else {
                    // LOCK_SH 1, LOCK_EX 2, LOCK_NB 4, flock(2).
                    try embryo.call(
                        SYS_flock, .int(number), .int(Int32(lock.isExclusive ? 2 : 1) | 4), on: subject)
                }
            }
        }
    }

    private static func setRecordLock(
        _ lock: Lock, index: Int32, context: any RestoreContext, on subject: String
    ) throws(KernelError) {
        let process = context.image.processes.first { $0.pid == lock.pid }
        guard let embryo = context.embryo(lock.pid),
            let number = process?.descriptors.first(where: { $0.description == index })?.number
        else { throw KernelError(call: "fcntl", object: subject, code: .noProcess) }
        var record = flock()
        record.l_type = Int16(lock.isExclusive ? F_WRLCK : F_RDLCK)
        record.l_whence = Int16(SEEK_SET)
        record.l_start = Int(lock.start)
        record.l_len = Int(lock.length)
        let bytes = withUnsafeBytes(of: record) { Array($0) }
        try embryo.call(SYS_fcntl, .int(number), .int(F_SETLK), .bytes(bytes), on: subject)
    }
}
