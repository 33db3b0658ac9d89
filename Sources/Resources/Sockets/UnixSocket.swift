import CKernel
import Glibc
import Kernel
import KernelCapture
import ProcessImage

/// A unix socket without a peer: a listener, a datagram socket at a path or an abstract name, or one without a name.
enum UnixSocket: DescriptorKind {
    struct Record: Codable {
        var type: Int32
        var name: Bytes
        var isListening: Bool
        /// st_mode, owner and group of the node; mode 0 when the node is gone or the name is not a path.
        var mode: UInt32
        var user: UInt32
        var group: UInt32
        /// Datagrams that wait.
        var queue: [Bytes]
        var settings: SocketSettings
    }
    static let name = "unix-listener"
    static let stage = RestoreStage.listeners
    /// listen(2) caps a backlog at net.core.somaxconn; the kernel tells nobody what it was.
    private static let backlog: Int32 = 4096

    static func recognises(_ probe: DescriptorProbe) -> Bool {
        UnixDomain.isUnix(probe) && !UnixDomain.isConnected(probe)
    }

    static func check(_ probe: DescriptorProbe, in context: CheckContext) -> [Refusal] {
        guard let path = SocketName.unix(probe.socket?.unixName ?? []).unixPath, !path.hasPrefix("/") else { return [] }
        return [
            probe.socketRefusal(
                "unix socket \(path)", "is bound to a relative path", remedy: "configure an absolute path")
        ]
    }

    static func capture(_ probe: DescriptorProbe, in context: any CaptureContext) throws(ResourceError) -> Bytes {
        let name = probe.socket?.unixName ?? []
        let address = SocketName.unix(name)
        let subject = "pid \(probe.pid) fd \(probe.number) (unix \(address))"
        let socket = try step(subject, "cannot be taken") { () throws(KernelError) in
            try context.take(pid: probe.pid, number: probe.number)
        }
        let isListening = probe.socket?.state == UnixDomain.listening
        if isListening {
            let events = try step(subject, "cannot be polled") { () throws(KernelError) in
                try Pipe.poll(socket, POLLIN)
            }
            if events & POLLIN != 0 { throw ResourceError(subject, TransientProblem.pendingConnections) }
        }
        let type = probe.socket?.type ?? 1
        let queue = type == UnixDomain.datagram ? try UnixDomain.queue(of: socket, subject: subject) : []
        if !queue.isEmpty && name.isEmpty {
            throw ResourceError(subject, TransientProblem.unreadMessages + ": it has no name to send them to again")
        }
        var record = Record(
            type: Int32(type), name: Bytes(name), isListening: isListening, mode: 0, user: 0, group: 0, queue: queue,
            settings: try SocketSettings.capture(socket, SocketOption.common, subject: subject))
        if let path = address.unixPath, let node = SocketNode(path: "/proc/\(probe.pid)/root" + path) {
            (record.mode, record.user, record.group) = (node.mode, node.user, node.group)
        }
        return try Payload.encode(record, for: subject)
    }

    static func restore(
        _ description: DescriptionImage, index: Int32, in embryo: any EmbryoPort, context: any RestoreContext
    ) throws(ResourceError) -> Int32 {
        let record = try Payload.decode(Record.self, from: description, index: index)
        let address = SocketName.unix(record.name.content)
        return try step("pid \(embryo.pid) unix \(address)", "cannot be made") { () throws(KernelError) in
            let number = try SocketMaker.make(AF_UNIX, record.type, 0, in: embryo, context: context)
            let socket = try embryo.take(number)
            if !record.name.isEmpty { try bind(number, address, record, in: embryo) }
            try record.settings.early.apply(to: socket)
            try record.settings.late.apply(to: socket)
            if record.isListening {
                // Who listens is who SO_PEERCRED names to those who connect.
                try SocketMaker.asService(in: embryo, context: context) { () throws(KernelError) in
                    _ = try embryo.call(SYS_listen, .int(number), .int(backlog), on: "\(address)")
                }
            }
            try refill(record, address, of: embryo)
            try record.settings.applyBuffers(to: socket)
            try Socket.setStatusFlags(socket, description.statusFlags)
            return number
        }
    }

    /// bind(2) in the embryo, whose mounts the path belongs to, in place of a node that an earlier life left there.
    private static func bind(
        _ number: Int32, _ address: SocketName, _ record: Record, in embryo: any EmbryoPort
    ) throws(KernelError) {
        let object = "\(address)"
        guard let path = address.unixPath else {
            try embryo.call(SYS_bind, .int(number), .bytes(address.bytes), .int(address.bytes.count), on: object)
            return
        }
        do throws(KernelError) {
            // struct stat of x86-64 has st_mode at 24; AT_SYMLINK_NOFOLLOW is 0x100.
            let answer = try embryo.call(
                SYS_newfstatat, .int(AT_FDCWD), .path(path), .output(144), .int(0x100), on: object)
            let stat = answer.outputs.first ?? []
            if stat.count == 144 && (UInt32(stat[24]) | UInt32(stat[25]) << 8) & S_IFMT == S_IFSOCK {
                try embryo.call(SYS_unlink, .path(path), on: object)
            }
        } catch  where error.code == .noEntry {}
        try embryo.call(SYS_bind, .int(number), .bytes(address.bytes), .int(address.bytes.count), on: object)
        guard record.mode != 0 else {
            try embryo.call(SYS_unlink, .path(path), on: object)
            return
        }
        try embryo.call(SYS_chown, .path(path), .int(Int(record.user)), .int(Int(record.group)), on: object)
        try embryo.call(SYS_chmod, .path(path), .int(Int(record.mode & 0o7777)), on: object)
    }

    /// Waiting datagrams come back without their senders' names, which nobody could answer here. A path is reached
    /// through the embryo's root; the queues of both hosts are equally long (net.unix.max_dgram_qlen), so all fit.
    private static func refill(
        _ record: Record, _ address: SocketName, of embryo: any EmbryoPort
    ) throws(KernelError) {
        guard !record.queue.isEmpty else { return }
        let sender = try Socket.make(AF_UNIX, record.type, 0)
        let target = address.unixPath.map { SocketName.unix(Array("/proc/\(embryo.pid)/root\($0)".utf8)) } ?? address
        try Socket.connect(sender, target)
        for message in record.queue { _ = try Socket.send(sender, message.content[...], flags: 0x40) }
    }
}
