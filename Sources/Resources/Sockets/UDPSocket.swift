import Glibc
import Kernel
import KernelCapture
import ProcessImage

/// A UDP socket: its addresses and options. Datagrams that wait in its receive queue are `WaitingDatagrams`; those that
/// arrive during the move are held and delivered like all packets.
enum UDPSocket: DescriptorKind {
    struct Record: Codable {
        var family: Int32
        var protocolNumber: Int32
        var local: SocketName
        var remote: SocketName?
        var settings: SocketSettings
    }
    static let name = "udp"

    static func recognises(_ probe: DescriptorProbe) -> Bool {
        guard probe.isSocket(families: [AF_INET, AF_INET6], type: 2), let socket = probe.socket else { return false }
        return [0, 17, 136].contains(socket.protocolNumber)
    }

    static func check(_ probe: DescriptorProbe, in context: CheckContext) -> [Refusal] {
        guard let socket = probe.socket else { return [] }
        let object = "udp \(probe.endpoints)"
        if !socket.multicastGroup.isEmpty {
            return [
                probe.socketRefusal(
                    object,
                    "is a member of the multicast group \(SocketName.text(socket.multicastGroup)), and memberships "
                        + "belong to an interface of this host",
                    remedy: "switch multicast (discovery, mDNS) off in the service, or move it by stop and start")
            ]
        }
        // A connected socket may have its address from the route; the other host's route gives it another.
        if socket.localPort != 0 && socket.remotePort == 0 && !context.isCarried(socket.localAddress) {
            return [
                probe.socketRefusal(
                    object, "is bound to an address of this host that does not move",
                    remedy: "bind it to the virtual address or to the wildcard address")
            ]
        }
        guard
            socket.remotePort != 0 && !context.virtualAddresses.contains(socket.localAddress)
                && !SocketName.isLoopback(socket.localAddress) && !context.allowsLoss
        else { return [] }
        return [
            probe.socketRefusal(
                object,
                "will be lost: its local address is not a virtual address of the unit, so the peer would see another",
                remedy: "bind it to the virtual address, or accept the loss with the option allow-loss")
        ]
    }

    static func capture(_ probe: DescriptorProbe, in context: any CaptureContext) throws(ResourceError) -> Bytes {
        let subject = "pid \(probe.pid) fd \(probe.number) (udp \(probe.endpoints))"
        let socket = try step(subject, "cannot be taken") { () throws(KernelError) in
            try context.take(pid: probe.pid, number: probe.number)
        }
        let settings = try SocketSettings.capture(
            socket, SocketOption.common + SocketOption.datagram, subject: subject)
        var record = try step(subject, "cannot be read") { () throws(KernelError) in
            Record(
                family: Int32(probe.socket?.family ?? 2), protocolNumber: Int32(probe.socket?.protocolNumber ?? 17),
                local: try Socket.localAddress(socket), remote: nil, settings: settings)
        }
        record.remote = try step(subject, "cannot be read") { () throws(KernelError) in
            do throws(KernelError) {
                return try Socket.remoteAddress(socket)
            } catch  where error.code == .notConnected {
                return nil
            }
        }
        if record.remote != nil && !context.check.isCarried(record.local.address) {
            record.local = .ip([UInt8](repeating: 0, count: 16), port: record.local.port, family: record.family)
        }
        return try Payload.encode(record, for: subject)
    }

    static func restore(
        _ description: DescriptionImage, index: Int32, in embryo: any EmbryoPort, context: any RestoreContext
    ) throws(ResourceError) -> Int32 {
        let record = try Payload.decode(Record.self, from: description, index: index)
        return try step("pid \(embryo.pid) udp \(record.local)", "cannot be made") { () throws(KernelError) in
            let number = try SocketMaker.make(record.family, 2, record.protocolNumber, in: embryo, context: context)
            let socket = try embryo.take(number)
            try record.settings.early.apply(to: socket)
            try record.settings.applyReuse(to: socket)
            if record.local.port != 0 { try SocketMaker.bind(socket, record.local) }
            if let remote = record.remote {
                let (level, name) = SocketMaker.transparency(record.family)
                let old = try Socket.integer(socket, level, name)
                try Socket.setInteger(socket, level, name, 1)
                try Socket.connect(socket, remote)
                try Socket.setInteger(socket, level, name, old)
            }
            try record.settings.late.apply(to: socket)
            try record.settings.applyBuffers(to: socket)
            try Socket.setStatusFlags(socket, description.statusFlags)
            return number
        }
    }
}
