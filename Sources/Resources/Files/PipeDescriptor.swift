import CKernel
import Glibc
import Kernel
import ProcessImage

/// One end of a pipe(7) whose other end is inside the unit, or closed.
enum PipeDescriptor: DescriptorKind {
    struct Record: Codable {
        var inode: UInt64
        var capacity: Int32
        /// What stands in the pipe; carried by each end, written by the first that is restored.
        var content: Bytes
    }
    static let name = "pipe"

    static func recognises(_ probe: DescriptorProbe) -> Bool { probe.link.hasPrefix("pipe:[") }

    private static func isWriter(_ flags: Int32) -> Bool { flags & O_ACCMODE != O_RDONLY }

    static func check(_ probe: DescriptorProbe, in context: CheckContext) -> [Refusal] {
        var refusals: [Refusal] = []
        if probe.flags & OpenFlag.direct != 0 {
            refusals.append(
                probe.refusal("is a packet-mode pipe (O_DIRECT)", remedy: "use a socket pair of type SOCK_SEQPACKET"))
        }
        let otherEnd = context.descriptors.contains {
            $0.link == probe.link && isWriter($0.flags) != isWriter(probe.flags)
        }
        if !otherEnd && !isBroken(probe) {
            refusals.append(
                probe.refusal(
                    "its other end is open in a process outside the unit",
                    remedy: "close it, or put both processes into one unit"))
        }
        return refusals
    }

    /// The other end is closed everywhere: poll(2) tells, and does not disturb. When the descriptor cannot be had
    /// the answer is no, and the check refuses.
    private static func isBroken(_ probe: DescriptorProbe) -> Bool {
        guard let copy = try? ProcessDescriptors.take(pid: probe.pid, number: probe.number),
            let events = try? Pipe.poll(copy, POLLIN | POLLOUT)
        else { return false }
        return events & (isWriter(probe.flags) ? POLLERR : POLLHUP) != 0
    }

    static func capture(_ probe: DescriptorProbe, in context: any CaptureContext) throws(ResourceError) -> Bytes {
        let record = try step(probe.subject, "cannot be read") { () throws(KernelError) in
            let end = try context.take(pid: probe.pid, number: probe.number)
            // The read end of the same pipe, whichever end this is; a description of its own disturbs nobody.
            let reader = try end.reopen(O_RDONLY | O_NONBLOCK)
            return Record(
                inode: probe.inode, capacity: try Pipe.capacity(end), content: Bytes(try Pipe.peek(reader)))
        }
        return try Payload.encode(record, for: probe.subject)
    }

    /// The end of this pipe that was made before `index`, if any.
    private static func earlier(_ inode: UInt64, than index: Int32, in image: ServiceImage) -> Int32? {
        for candidate in 0..<index where image.descriptions[Int(candidate)].kind == name {
            let description = image.descriptions[Int(candidate)]
            if let record = try? Payload.decode(Record.self, from: description, index: candidate),
                record.inode == inode
            {
                return candidate
            }
        }
        return nil
    }

    static func restore(
        _ description: DescriptionImage, index: Int32, in embryo: any EmbryoPort, context: any RestoreContext
    ) throws(ResourceError) -> Int32 {
        let record = try Payload.decode(Record.self, from: description, index: index)
        let first = earlier(record.inode, than: index, in: context.image)
        return try step("pid \(embryo.pid) pipe", "cannot be made") { () throws(KernelError) in
            if let first {
                let other = try context.take(description: first)
                let end = try other.reopen(description.statusFlags & (O_ACCMODE | O_NONBLOCK) | O_NONBLOCK)
                return try give(end, description, to: embryo)
            }
            return try makeFirst(record, description, in: embryo)
        }
    }

    private static func makeFirst(
        _ record: Record, _ description: DescriptionImage, in embryo: any EmbryoPort
    ) throws(KernelError) -> Int32 {
        let ends = try Pipe.make()
        let writer = ends.write.raw
        let capacity = record.capacity
        try systemCall("fcntl", on: "pipe") { ck_fcntl(writer, Pipe.setSize, Int(capacity)) }
        try ends.write.writeAll(record.content.content)
        if description.statusFlags & O_ACCMODE == O_RDWR {
            return try give(try ends.read.reopen(O_RDWR | O_NONBLOCK), description, to: embryo)
        }
        return isWriter(description.statusFlags)
            ? try give(ends.write, description, to: embryo) : try give(ends.read, description, to: embryo)
    }

    /// Hands the end over with its own status flags instead of the O_NONBLOCK it was opened with.
    private static func give(
        _ end: borrowing FileDescriptor, _ description: DescriptionImage, to embryo: any EmbryoPort
    ) throws(KernelError) -> Int32 {
        let raw = end.raw
        try systemCall("fcntl", on: "pipe") { ck_fcntl(raw, F_SETFL, Int(description.statusFlags & O_NONBLOCK)) }
        return try embryo.give(end, minimum: 0)
    }
}
