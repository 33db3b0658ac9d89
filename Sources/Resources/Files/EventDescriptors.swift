import CKernel
import Glibc
import Kernel
import ProcessImage

/// eventfd(2).
enum EventDescriptor: DescriptorKind {
    struct Record: Codable {
        var count: UInt64
        var isSemaphore: Bool
    }
    static let name = "eventfd"

    static func recognises(_ probe: DescriptorProbe) -> Bool { probe.link == "anon_inode:[eventfd]" }
    static func check(_ probe: DescriptorProbe, in context: CheckContext) -> [Refusal] { [] }

    static func capture(_ probe: DescriptorProbe, in context: any CaptureContext) throws(ResourceError) -> Bytes {
        guard let text = probe.detail("eventfd-count"), let count = UInt64(text, radix: 16) else {
            throw probe.malformed("eventfd-count")
        }
        let semaphore = probe.detail("eventfd-semaphore") == "1"
        return try Payload.encode(Record(count: count, isSemaphore: semaphore), for: probe.subject)
    }

    static func restore(
        _ description: DescriptionImage, index: Int32, in embryo: any EmbryoPort, context: any RestoreContext
    ) throws(ResourceError) -> Int32 {
        let record = try Payload.decode(Record.self, from: description, index: index)
        let subject = "pid \(embryo.pid) eventfd"
        return try step(subject, "cannot be made") { () throws(KernelError) in
            let flags = (record.isSemaphore ? 1 : 0) | (description.statusFlags & O_NONBLOCK)
            let number = try embryo.call(SYS_eventfd2, .int(0), .int(flags), on: subject).value
            if record.count > 0 {
                let value = withUnsafeBytes(of: record.count.littleEndian) { Array($0) }
                try embryo.call(SYS_write, .int(number), .bytes(value), .int(8), on: subject)
            }
            return Int32(number)
        }
    }
}

/// signalfd(2). What it delivers are the process's pending signals, which travel with the process.
enum SignalDescriptor: DescriptorKind {
    struct Record: Codable { var mask: UInt64 }
    static let name = "signalfd"

    static func recognises(_ probe: DescriptorProbe) -> Bool { probe.link == "anon_inode:[signalfd]" }
    static func check(_ probe: DescriptorProbe, in context: CheckContext) -> [Refusal] { [] }

    static func capture(_ probe: DescriptorProbe, in context: any CaptureContext) throws(ResourceError) -> Bytes {
        guard let text = probe.detail("sigmask"), let mask = UInt64(text, radix: 16) else {
            throw probe.malformed("sigmask")
        }
        return try Payload.encode(Record(mask: mask), for: probe.subject)
    }

    static func restore(
        _ description: DescriptionImage, index: Int32, in embryo: any EmbryoPort, context: any RestoreContext
    ) throws(ResourceError) -> Int32 {
        let record = try Payload.decode(Record.self, from: description, index: index)
        let subject = "pid \(embryo.pid) signalfd"
        let mask = withUnsafeBytes(of: record.mask.littleEndian) { Array($0) }
        return try step(subject, "cannot be made") { () throws(KernelError) in
            Int32(
                try embryo.call(
                    SYS_signalfd4, .int(-1), .bytes(mask), .int(8), .int(description.statusFlags & O_NONBLOCK),
                    on: subject
                ).value)
        }
    }
}

/// pidfd_open(2) of a process of the unit.
enum ProcessDescriptor: DescriptorKind {
    struct Record: Codable { var target: Int32 }
    static let name = "pidfd"

    static func recognises(_ probe: DescriptorProbe) -> Bool {
        probe.link == "anon_inode:[pidfd]" || probe.link.hasPrefix("pidfd:[")
    }

    private static func target(_ probe: DescriptorProbe) -> Int32? { probe.detail("Pid").flatMap { Int32($0) } }

    static func check(_ probe: DescriptorProbe, in context: CheckContext) -> [Refusal] {
        let pid = target(probe) ?? -1
        if context.descriptors.contains(where: { $0.pid == pid }) { return [] }
        return [
            probe.refusal(
                "refers to process \(pid), which is not a living process of the unit",
                remedy: "close it, or stop and start the service on the other host")
        ]
    }

    static func capture(_ probe: DescriptorProbe, in context: any CaptureContext) throws(ResourceError) -> Bytes {
        guard let pid = target(probe) else { throw probe.malformed("Pid") }
        return try Payload.encode(Record(target: pid), for: probe.subject)
    }

    static func restore(
        _ description: DescriptionImage, index: Int32, in embryo: any EmbryoPort, context: any RestoreContext
    ) throws(ResourceError) -> Int32 {
        let record = try Payload.decode(Record.self, from: description, index: index)
        let subject = "pid \(embryo.pid) pidfd of \(record.target)"
        return try step(subject, "cannot be made") { () throws(KernelError) in
            let flags = description.statusFlags & O_NONBLOCK
            return Int32(try embryo.call(SYS_pidfd_open, .int(record.target), .int(flags), on: subject).value)
        }
    }
}
