import Glibc
import Kernel
import KernelCapture
import ProcessImage

/// A netlink(7) socket without waiting messages: its port, multicast groups and options.
enum NetlinkSocket: DescriptorKind {
    struct Record: Codable {
        var type: Int32
        var protocolNumber: Int32
        var port: UInt32
        /// Numbers of the groups, from 1.
        var groups: [UInt32]
        var settings: SocketSettings
    }
    static let name = "netlink"
    private static let level: Int32 = 270
    private static let addMembership: Int32 = 1, listMemberships: Int32 = 9
    /// NETLINK_ROUTE, NETLINK_SOCK_DIAG, NETLINK_KOBJECT_UEVENT: the kernel keeps nothing of their callers.
    private static let stateless: Set<UInt16> = [0, 4, 15]

    static func recognises(_ probe: DescriptorProbe) -> Bool {
        probe.isSocket && probe.socket?.family == UInt16(AF_NETLINK)
            && stateless.contains(probe.socket?.protocolNumber ?? UInt16.max)
    }

    static func check(_ probe: DescriptorProbe, in context: CheckContext) -> [Refusal] { [] }

    static func capture(_ probe: DescriptorProbe, in context: any CaptureContext) throws(ResourceError) -> Bytes {
        let subject = "\(probe.subject) (netlink)"
        let socket = try step(subject, "cannot be taken") { () throws(KernelError) in
            try context.take(pid: probe.pid, number: probe.number)
        }
        let settings = try SocketSettings.capture(
            socket, SocketOption.common + SocketOption.netlink, subject: subject)
        let (record, waiting) = try step(subject, "cannot be read") { () throws(KernelError) in
            let address = try Socket.localAddress(socket).bytes
            // struct sockaddr_nl: family, padding, port at 4, groups at 8.
            let port = address.count >= 8 ? word(address[4..<8]) : 0
            let bitmap = try Socket.option(socket, level, listMemberships, limit: 64)
            let groups: [UInt32] = (0..<UInt32(bitmap.count * 8)).filter { bit in
                bitmap[Int(bit / 8)] >> UInt8(bit % 8) & 1 == 1
            }.map { $0 + 1 }
            let record = Record(
                type: Int32(probe.socket?.type ?? 3), protocolNumber: Int32(probe.socket?.protocolNumber ?? 0),
                port: port, groups: groups, settings: settings)
            return (record, try Socket.peekMessage(socket, upTo: 1) != nil)
        }
        guard !waiting else { throw ResourceError(subject, TransientProblem.unreadMessages) }
        return try Payload.encode(record, for: subject)
    }

    private static func word(_ bytes: ArraySlice<UInt8>) -> UInt32 {
        bytes.reversed().reduce(0) { $0 << 8 | UInt32($1) }
    }

    static func restore(
        _ description: DescriptionImage, index: Int32, in embryo: any EmbryoPort, context: any RestoreContext
    ) throws(ResourceError) -> Int32 {
        let record = try Payload.decode(Record.self, from: description, index: index)
        return try step("pid \(embryo.pid) netlink", "cannot be made") { () throws(KernelError) in
            let number = try SocketMaker.make(
                AF_NETLINK, record.type, record.protocolNumber, in: embryo, context: context)
            let socket = try embryo.take(number)
            if record.port != 0 {
                let words: [UInt32] = [UInt32(AF_NETLINK), record.port, 0]
                try Socket.bind(
                    socket, SocketName(bytes: words.flatMap { word in withUnsafeBytes(of: word) { Array($0) } }))
            }
            for group in record.groups {
                try Socket.setInteger(socket, level, addMembership, Int32(bitPattern: group))
            }
            try record.settings.early.apply(to: socket)
            try record.settings.late.apply(to: socket)
            try record.settings.applyBuffers(to: socket)
            try Socket.setStatusFlags(socket, description.statusFlags)
            return number
        }
    }
}
