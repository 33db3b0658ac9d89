import CKernel
import Glibc
import Kernel
import ProcessImage

/// Regular files and directories of a file system.
///
/// A file that has a name is reopened by it: shared storage is assumed, the content was compared before the freeze,
/// and logs continue at the destination's end of file. An unlinked file has no other home than this description, so
/// its content travels in the record.
public enum FileDescriptorKind: DescriptorKind {
    public enum Manner: UInt8, Codable, Sendable {
        /// Reopen by path; the content is the same on both hosts.
        case byPath = 1
        /// Opened for append below /var/log: create if missing, continue at the end.
        case log
        case unlinked
    }

    public struct Lock: Codable, Sendable {
        /// False: flock(2), of the description. True: fcntl(2) F_SETLK, of the process `pid`.
        public var isRecord: Bool
        public var pid: Int32
        public var isExclusive: Bool
        public var start: Int64
        /// Bytes; 0 reaches to the end of the file.
        public var length: Int64
    }

    public struct Record: Codable, Sendable {
        public var identity: FileIdentity
        public var manner: Manner
        public var position: Int64
        public var user: UInt32
        public var group: UInt32
        public var locks: [Lock]
        /// Which file it is of those without a name: several descriptions may be of one.
        public var device: UInt64
        public var inode: UInt64
        /// Content of an unlinked file.
        public var content: Bytes
    }
    public static let name = "file"

    /// The largest unlinked file that is carried, bytes.
    static let unlinkedLimit: UInt64 = 32 << 20

    public static func recognises(_ probe: DescriptorProbe) -> Bool {
        let type = probe.mode & S_IFMT
        if type == S_IFREG && SharedMemoryFiles.contains(probe.link) { return false }
        return (type == S_IFREG || type == S_IFDIR) && probe.link.hasPrefix("/") && !probe.link.hasPrefix("/memfd:")
    }

    /// What looks like a file of the root directory: mq_overview(7), memfd_secret(2).
    private static let noFiles: [(type: FileSystemType, why: String, remedy: String)] = [
        (
            .messageQueues, "is a POSIX message queue, which lives in this host's kernel",
            "use the service's setting for sockets or pipes"
        ),
        (
            .secretMemory, "is memory of memfd_secret(2), hidden from the daemon",
            "switch secret memory off in the service"
        ),
    ]

    static func isLog(_ probe: DescriptorProbe) -> Bool {
        probe.flags & O_APPEND != 0 && probe.link.hasPrefix("/var/log/") && !probe.isUnlinked
    }

    /// Whether the destination must have a regular file of this name and content.
    public static func needsEqualFile(_ probe: DescriptorProbe) -> Bool {
        recognises(probe) && probe.mode & S_IFMT == S_IFREG && !probe.isUnlinked && !isLog(probe)
            && !isKernels(probe.link)
    }

    /// Files of /proc and /sys have the content of their host.
    private static func isKernels(_ path: String) -> Bool { path.hasPrefix("/proc/") || path.hasPrefix("/sys/") }

    public static func check(_ probe: DescriptorProbe, in context: CheckContext) -> [Refusal] {
        var refusals: [Refusal] = []
        if probe.isUnlinked && probe.mode & S_IFMT == S_IFDIR {
            refusals.append(probe.refusal("is a removed directory", remedy: "restart the service"))
        }
        if probe.isUnlinked && probe.size > unlinkedLimit {
            refusals.append(
                probe.refusal(
                    "is an unlinked file of \(probe.size) bytes; at most \(unlinkedLimit) are carried",
                    remedy: "have the service keep large temporary files by name, on shared storage"))
        }
        for text in probe.allDetails("lock") where lock(text) == nil {
            refusals.append(
                probe.refusal("holds a lock or lease that cannot be carried (\(text))", remedy: "release the lease"))
        }
        if probe.mode & S_IFMT == S_IFREG, let type = FileSystemType.of(probe) {
            refusals += noFiles.filter { $0.type == type }.map { probe.refusal($0.why, remedy: $0.remedy) }
        }
        if isKernels(probe.link) {
            refusals.append(contentsOf: kernelFile(probe, unitPids: Set(context.descriptors.map(\.pid))))
        }
        return refusals
    }

    /// Files of /proc and /sys are windows into one host's kernel: reading on is fine where the same path means
    /// the same thing there.
    private static func kernelFile(_ probe: DescriptorProbe, unitPids: Set<Int32>) -> [Refusal] {
        let parts = probe.link.split(separator: "/")
        if parts.first == "proc", parts.count > 1, let pid = Int32(parts[1]), !unitPids.contains(pid) {
            return [probe.refusal("belongs to process \(pid) outside the unit", remedy: "close it before the move")]
        }
        return []
    }

    /// `1: FLOCK  ADVISORY  WRITE 123 08:01:99 0 EOF`, fs/locks.c lock_get_status().
    static func lock(_ text: String) -> Lock? {
        let words = text.split(separator: " ").map(String.init)
        guard words.count >= 8, words[1] == "FLOCK" || words[1] == "POSIX", let pid = Int32(words[4]),
            let start = Int64(words[6])
        else { return nil }
        let end = words[7] == "EOF" ? nil : Int64(words[7])
        guard words[7] == "EOF" || end != nil, words[3] == "WRITE" || words[3] == "READ" else { return nil }
        return Lock(
            isRecord: words[1] == "POSIX", pid: pid, isExclusive: words[3] == "WRITE", start: start,
            length: end.map { $0 - start + 1 } ?? 0)
    }

    public static func capture(
        _ probe: DescriptorProbe, in context: any CaptureContext
    ) throws(ResourceError) -> Bytes {
        let manner: Manner = probe.isUnlinked ? .unlinked : isLog(probe) ? .log : .byPath
        let record = try step(probe.subject, "cannot be read") { () throws(KernelError) in
            var status = stat()
            let file = try context.take(pid: probe.pid, number: probe.number)
            let raw = file.raw
            try systemCall("fstat", on: probe.subject) { fstat(raw, &status) }
            var identity = FileIdentity(path: probe.path, size: UInt64(status.st_size), mode: status.st_mode)
            var content = Bytes()
            switch manner {
            case .unlinked: content = Bytes(try wholeContent(file, size: status.st_size))
            case .byPath where needsEqualFile(probe):
                identity = try context.identity(path: probe.path, ofProcess: probe.pid)
            default: break
            }
            return Record(
                identity: identity, manner: manner, position: probe.position, user: status.st_uid,
                group: status.st_gid, locks: probe.allDetails("lock").compactMap(lock), device: probe.device,
                inode: probe.inode, content: content)
        }
        return try Payload.encode(record, for: probe.subject)
    }

    private static func wholeContent(_ file: borrowing FileDescriptor, size: Int) throws(KernelError) -> [UInt8] {
        let readable = try file.reopen(O_RDONLY)
        var content: [UInt8] = []
        while content.count < size {
            let piece = try readable.read(upTo: size - content.count, at: Int64(content.count))
            if piece.isEmpty { break }
            content += piece
        }
        return content
    }

    /// The record of a captured description of this kind; nil for other kinds.
    public static func record(of description: DescriptionImage, index: Int32) -> Record? {
        guard description.kind == name else { return nil }
        return try? Payload.decode(Record.self, from: description, index: index)
    }
}
