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
            let words = line.utf8.split { $0 == UInt8(ascii: " ") || $0 == UInt8(ascii: ":") }.map { Substring($0) }
            func value<Number: FixedWidthInteger>(_ key: Substring, _ type: Number.Type) -> Number? {
                guard let at = words.firstIndex(of: key), at + 1 < words.count else { return nil }
                return Number(words[at + 1], radix: 16)
            }
            guard let target = words.first.flatMap({ Int32($0) }), let events = value("events", UInt32.self),
                let data = value("data", UInt64.self)
            else { throw probe.malformed("tfd") }
            let inode = value("ino", UInt64.self)
            found.append(Interest(target: target, events: events, data: data, inode: inode))
        }
        return found
    }

    /// Finds the files that an epoll watches among the descriptors of the processes that hold it.
    private struct Locator {
        private struct Place: Hashable {
            var pid: Int32
            var number: Int32
        }
        /// This process first, then others that share the epoll.
        private let holders: [(pid: Int32, number: Int32)]
        private var inodes: [Place: UInt64] = [:]

        init(_ probe: DescriptorProbe, in all: [DescriptorProbe]) {
            var own: [(pid: Int32, number: Int32)] = []
            var others = own
            for other in all where other.description == probe.description {
                if other.pid == probe.pid {
                    own.append((other.pid, other.number))
                } else {
                    others.append((other.pid, other.number))
                }
            }
            holders = own + others
            let pids = Set(holders.map(\.pid))
            for other in all where pids.contains(other.pid) {
                inodes[Place(pid: other.pid, number: other.number)] = other.inode
            }
        }

        /// Where the watched number means the watched file.
        func locate(_ interest: Interest) -> Entry? {
            for holder in holders {
                guard let inode = inodes[Place(pid: holder.pid, number: interest.target)],
                    interest.inode == nil || inode == interest.inode
                else { continue }
                return Entry(
                    pid: holder.pid, epoll: holder.number, target: interest.target, events: interest.events,
                    data: interest.data)
            }
            return nil
        }
    }

    static func check(_ probe: DescriptorProbe, in context: CheckContext) -> [Refusal] {
        guard let interests = try? interests(probe) else {
            return [probe.refusal("its interest list cannot be read", remedy: "report the kernel's version")]
        }
        let locator = Locator(probe, in: context.descriptors)
        return interests.filter { locator.locate($0) == nil }.map {
            probe.refusal(
                "watches number \($0.target), which is closed or another file by now",
                remedy: "remove descriptors from the epoll set before closing them")
        }
    }

    static func capture(_ probe: DescriptorProbe, in context: any CaptureContext) throws(ResourceError) -> Bytes {
        var entries: [Entry] = []
        let locator = Locator(probe, in: context.check.descriptors)
        for interest in try interests(probe) {
            guard let entry = locator.locate(interest) else {
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
        let record = try Payload.decode(Record.self, from: description, index: index)
        for (pid, entries) in Dictionary(grouping: record.entries, by: \.pid) {
            guard let owner = context.embryo(pid) else {
                throw ResourceError("pid \(pid) epoll", "watches a descriptor of a process that is not there")
            }
            try step("pid \(pid) epoll", "cannot watch its descriptors") { () throws(KernelError) in
                try owner.perform(entries.map(watch))
            }
        }
    }

    private static func watch(_ entry: Entry) -> EmbryoCall {
        // struct epoll_event is packed on x86-64, epoll_ctl(2).
        let event =
            withUnsafeBytes(of: entry.events.littleEndian) { Array($0) }
            + withUnsafeBytes(of: entry.data.littleEndian) { Array($0) }
        return EmbryoCall(
            Int32(SYS_epoll_ctl), [.int(entry.epoll), .int(Int32(1)), .int(entry.target), .bytes(event)],
            on: "epoll \(entry.epoll) number \(entry.target)")
    }
}
