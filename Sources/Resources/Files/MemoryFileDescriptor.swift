import CKernel
import Glibc
import Kernel
import ProcessImage

/// memfd_create(2), or a file of /dev/shm: a description of a memory object, whose content travels as shared memory.
enum MemoryFileDescriptor: DescriptorKind {
    struct Record: Codable {
        var object: Int32
        var position: Int64
    }
    static let name = "memfd"

    static func recognises(_ probe: DescriptorProbe) -> Bool {
        guard probe.mode & S_IFMT == S_IFREG else { return false }
        return probe.link.hasPrefix("/memfd:") && probe.isUnlinked || SharedMemoryFiles.contains(probe.link)
    }

    static func check(_ probe: DescriptorProbe, in context: CheckContext) -> [Refusal] {
        var refusals = probe.allDetails("lock").map {
            probe.refusal("holds a lock on shared memory (\($0))", remedy: "lock a file of another file system")
        }
        if FileSystemType.of(probe) == FileSystemType.hugePages {
            refusals.append(
                probe.refusal(
                    "is memory of hugetlbfs (MFD_HUGETLB), which belongs to this host's pool",
                    remedy: "let the service use transparent huge pages"))
        }
        return refusals
    }

    static func capture(_ probe: DescriptorProbe, in context: any CaptureContext) throws(ResourceError) -> Bytes {
        guard let object = context.sharedMemoryIndex(device: probe.device, inode: probe.inode) else {
            throw ResourceError(probe.subject, "is not among the unit's memory objects")
        }
        return try Payload.encode(Record(object: object, position: probe.position), for: probe.subject)
    }

    static func restore(
        _ description: DescriptionImage, index: Int32, in embryo: any EmbryoPort, context: any RestoreContext
    ) throws(ResourceError) -> Int32 {
        let record = try Payload.decode(Record.self, from: description, index: index)
        let subject = "pid \(embryo.pid) memory object \(record.object)"
        return try step(subject, "cannot be opened") { () throws(KernelError) in
            let object = try context.take(sharedMemory: record.object)
            let own = try object.reopen(description.statusFlags & OpenFlag.reopenable)
            let raw = own.raw
            try systemCall("lseek", on: subject) { lseek(raw, Int(record.position), SEEK_SET) }
            return try embryo.give(own, minimum: 0)
        }
    }
}
