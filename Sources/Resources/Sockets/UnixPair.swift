import CKernel
import Glibc
import Kernel
import KernelCapture
import ProcessImage

/// One end of connected unix sockets whose other end is inside the unit, or closed.
///
/// The end that is restored first makes both; the other waits in `RestoreContext.parked`.
enum UnixPair: DescriptorKind {
    struct Record: Codable {
        var type: Int32
        var inode: UInt64
        /// 0 when the other end is closed.
        var peerInode: UInt64
        /// RCV_SHUTDOWN 1, SEND_SHUTDOWN 2.
        var shutdown: UInt8
        /// The process that SO_PEERCRED names.
        var peerProcess: Int32
        /// What waits to be read here.
        var queue: [Bytes]
        var settings: SocketSettings
    }
    static let name = "unix-pair"
    private static let busNames = ["/run/dbus/system_bus_socket", "/var/run/dbus/system_bus_socket"]

    static func recognises(_ probe: DescriptorProbe) -> Bool { UnixDomain.isConnected(probe) }

    static func check(_ probe: DescriptorProbe, in context: CheckContext) -> [Refusal] {
        guard let socket = probe.socket, socket.peerInode != 0,
            !context.descriptors.contains(where: { $0.socket?.inode == socket.peerInode })
        else { return [] }
        let peer = UnixDomain.peerName(probe)
        let object = "unix socket to \(peer?.description ?? "an unknown peer")"
        if let path = peer?.unixPath, busNames.contains(path) {
            return [
                probe.socketRefusal(
                    object, "is a connection to the system bus, of which the bus daemon of this host keeps the state",
                    remedy: "have the service close it, or stop and start the service on the other host")
            ]
        }
        let process = UnixDomain.peerProcess(probe).map { "process \($0)" } ?? "a process"
        let own = socket.unixName.isEmpty ? "" : " (accepted at \(SocketName.unix(socket.unixName)))"
        return [
            probe.socketRefusal(
                object + own, "its other end belongs to \(process) of this host outside the unit",
                remedy: "end that connection, or put both processes into one unit")
        ]
    }

    static func capture(_ probe: DescriptorProbe, in context: any CaptureContext) throws(ResourceError) -> Bytes {
        let subject = "\(probe.subject) (unix)"
        let socket = try step(subject, "cannot be taken") { () throws(KernelError) in
            try context.take(pid: probe.pid, number: probe.number)
        }
        let settings = try SocketSettings.capture(
            socket, SocketOption.common + [.init(level: SocketOption.socket, name: SocketOption.peekOffset)],
            subject: subject)
        let queue = try UnixDomain.queue(of: socket, subject: subject)
        let process = try step(subject, "cannot be read") { () throws(KernelError) in
            try UnixDomain.peerProcess(socket) ?? 0
        }
        return try Payload.encode(
            Record(
                type: Int32(probe.socket?.type ?? 1), inode: probe.inode, peerInode: probe.socket?.peerInode ?? 0,
                shutdown: probe.socket?.shutdown ?? 0, peerProcess: process, queue: queue, settings: settings),
            for: subject)
    }

    static func restore(
        _ description: DescriptionImage, index: Int32, in embryo: any EmbryoPort, context: any RestoreContext
    ) throws(ResourceError) -> Int32 {
        let record = try Payload.decode(Record.self, from: description, index: index)
        let peer = other(record, in: context.image)
        return try step("pid \(embryo.pid) unix socket pair", "cannot be made") { () throws(KernelError) in
            if let ready = context.parked.take(description: index) { return try embryo.give(ready, minimum: 0) }
            let maker = context.embryo(record.peerProcess) ?? embryo
            let pair = try makePair(record, in: maker, context: context)
            try fill(pair.second, with: record, of: pair.first)
            if let peer { try fill(pair.first, with: peer.record, of: pair.second) }
            try finish(pair.first, record, description)
            if let peer {
                try finish(pair.second, peer.record, context.image.descriptions[Int(peer.index)])
                context.parked.park(try pair.second.duplicate(), description: peer.index)
            }
            return try embryo.give(pair.first, minimum: 0)
        }
    }

    private static func other(_ record: Record, in image: ServiceImage) -> (index: Int32, record: Record)? {
        guard record.peerInode != 0 else { return nil }
        for (index, description) in image.descriptions.enumerated() where description.kind == name {
            if let found = try? Payload.decode(Record.self, from: description, index: Int32(index)),
                found.inode == record.peerInode
            {
                return (Int32(index), found)
            }
        }
        return nil
    }

    /// socketpair(2) in the process whose credentials both ends will tell of.
    private static func makePair(
        _ record: Record, in maker: any EmbryoPort, context: any RestoreContext
    ) throws(KernelError) -> Socket.Pair {
        let result = try SocketMaker.asService(in: maker, context: context) { () throws(KernelError) in
            try maker.call(
                SYS_socketpair, .int(AF_UNIX), .int(record.type | 0o2000000), .int(0), .output(8), on: "socketpair")
        }
        let bytes = result.outputs.first ?? []
        func number(_ offset: Int) -> Int32 {
            bytes[offset..<offset + 4].reversed().reduce(Int32(0)) { $0 << 8 | Int32($1) }
        }
        guard bytes.count == 8 else {
            throw KernelError(call: "socketpair", object: "pid \(maker.pid)", code: .invalidArgument)
        }
        let pair = Socket.Pair(first: try maker.take(number(0)), second: try maker.take(number(4)))
        try maker.call(SYS_close, .int(number(0)), on: "socketpair")
        try maker.call(SYS_close, .int(number(4)), on: "socketpair")
        return pair
    }

    /// Sends from `sender` what waits at the end that `record` describes.
    private static func fill(
        _ sender: borrowing FileDescriptor, with record: Record, of receiver: borrowing FileDescriptor
    ) throws(KernelError) {
        let total = record.queue.reduce(0) { $0 + $1.count + 1024 }
        try record.settings.widen(sender, sending: total, receiving: 0)
        for message in record.queue {
            if UInt16(record.type) == UnixDomain.stream {
                try Socket.sendAll(sender, message.content)
            } else {
                _ = try Socket.send(sender, message.content[...], flags: 0x40)
            }
        }
    }

    private static func finish(
        _ socket: borrowing FileDescriptor, _ record: Record, _ description: DescriptionImage
    ) throws(KernelError) {
        try record.settings.early.apply(to: socket)
        try record.settings.late.apply(to: socket)
        try record.settings.applyBuffers(to: socket)
        // A shutdown acts on the peer too; both ends say the same, in whatever order. With a closed peer it comes
        // from the closing.
        if record.peerInode != 0 || UInt16(record.type) == UnixDomain.datagram {
            if record.shutdown & 1 != 0 { try Socket.shutdown(socket, 0) }
            if record.shutdown & 2 != 0 { try Socket.shutdown(socket, 1) }
        }
        try Socket.setStatusFlags(socket, description.statusFlags)
    }
}
