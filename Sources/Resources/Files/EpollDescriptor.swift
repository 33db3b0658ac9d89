import CKernel
import Glibc
import Kernel
import ProcessImage

/// epoll(7): the interest list. Readiness is not state: adding a ready descriptor reports it again, which an
/// edge-triggered user must allow for anyway.
enum EpollDescriptor: DescriptorKind {
    struct Entry: Codable {
        /// The process whose descriptor table `target` is a number of, and its number of this epoll.
        var pid: Int32
        var epoll: Int32
        var target: Int32
        var events: UInt32
        var data: UInt64
    }
    struct Record: Codable { var entries: [Entry] }
    static let name = "epoll"

    static func recognises(_ probe: DescriptorProbe) -> Bool { probe.link == "anon_inode:[eventpoll]" }

    private struct Interest {
        var target: Int32
        var events: UInt32
        var data: UInt64
        var inode: UInt64?
    }

    /// `tfd: 5 events: 19 data: 7f… pos:0 ino:5a9 sdev:7`, fs/eventpoll.c ep_show_fdinfo().
    private static func interests(_ probe: DescriptorProbe) throws(ResourceError) -> [Interest] {
        var found: [Interest] = []
        for line in probe.allDetails("tfd") {
            let words = line.split(whereSeparator: { $0 == " " || $0 == ":" }).map(String.init)
            func value(_ key: String) -> String? {
                guard let at = words.firstIndex(of: key), at + 1 < words.count else { return nil }
                return words[at + 1]
            }
            guard let target = words.first.flatMap({ Int32($0) }),
                let events = value("events").flatMap({ UInt32($0, radix: 16) }),
                let data = value("data").flatMap({ UInt64($0, radix: 16) })
            else { throw probe.malformed("tfd") }
            let inode = value("ino").flatMap { UInt64($0, radix: 16) }
            found.append(Interest(target: target, events: events, data: data, inode: inode))
        }
        return found
    }

    /// Where the watched number means the watched file: this process first, then others that share the epoll.
    private static func locate(_ interest: Interest, _ probe: DescriptorProbe, in all: [DescriptorProbe]) -> Entry? {
        let holders = all.filter { $0.description == probe.description }
        let ordered = holders.filter { $0.pid == probe.pid } + holders.filter { $0.pid != probe.pid }
        for holder in ordered {
            let match = all.contains {
                $0.pid == holder.pid && $0.number == interest.target
                    && (interest.inode == nil || $0.inode == interest.inode)
            }
            if match {
                return Entry(
                    pid: holder.pid, epoll: holder.number, target: interest.target, events: interest.events,
                    data: interest.data)
            }
        }
        return nil
    }

    static func check(_ probe: DescriptorProbe, in context: CheckContext) -> [Refusal] {
        guard let interests = try? interests(probe) else {
            return [probe.refusal("its interest list cannot be read", remedy: "report the kernel's version")]
        }
        return interests.filter { locate($0, probe, in: context.descriptors) == nil }.map {
            probe.refusal(
                "watches number \($0.target), which is closed or another file by now",
                remedy: "remove descriptors from the epoll set before closing them")
        }
    }

    static func capture(_ probe: DescriptorProbe, in context: any CaptureContext) throws(ResourceError) -> Bytes {
        var entries: [Entry] = []
        for interest in try interests(probe) {
            guard let entry = locate(interest, probe, in: context.check.descriptors) else {
                throw ResourceError(probe.subject, "watches number \(interest.target), which is no longer that file")
            }
            entries.append(entry)
        }
        return try Payload.encode(Record(entries: entries), for: probe.subject)
    }

    static func restore(
        _ description: DescriptionImage, index: Int32, in embryo: any EmbryoPort, context: any RestoreContext
    ) throws(ResourceError) -> Int32 {
        let subject = "pid \(embryo.pid) epoll"
        return try step(subject, "cannot be made") { () throws(KernelError) in
            Int32(try embryo.call(SYS_epoll_create1, .int(0), on: subject).value)
        }
    }

    static func connect(
        _ description: DescriptionImage, index: Int32, number: Int32, in embryo: any EmbryoPort,
        context: any RestoreContext
    ) throws(ResourceError) {
        for entry in try Payload.decode(Record.self, from: description, index: index).entries {
            let subject = "pid \(entry.pid) epoll \(entry.epoll)"
            guard let owner = context.embryo(entry.pid) else {
                throw ResourceError(subject, "watches a descriptor of a process that is not there")
            }
            // struct epoll_event is packed on x86-64, epoll_ctl(2).
            let event =
                withUnsafeBytes(of: entry.events.littleEndian) { Array($0) }
                + withUnsafeBytes(of: entry.data.littleEndian) { Array($0) }
            _ = try step(subject, "cannot watch number \(entry.target)") { () throws(KernelError) in
                try owner.call(
                    SYS_epoll_ctl, .int(entry.epoll), .int(Int32(1)), .int(entry.target), .bytes(event), on: subject)
            }
        }
    }
}
