import Glibc
import Kernel
import KernelCapture
import ProcessImage

/// A listening TCP (or MPTCP) socket.
enum TCPListener: DescriptorKind {
    struct Record: Codable {
        var family: Int32
        var protocolNumber: Int32
        var address: SocketName
        var backlog: Int32
        var settings: SocketSettings
    }
    static let name = "tcp-listener"
    static let stage = RestoreStage.listeners

    static func recognises(_ probe: DescriptorProbe) -> Bool {
        TCP.isStream(probe) && probe.socket?.state == TCP.listen
    }

    static func check(_ probe: DescriptorProbe, in context: CheckContext) -> [Refusal] {
        guard let socket = probe.socket else { return [] }
        if socket.isSigned {
            return [probe.socketRefusal("tcp \(probe.endpoints)", TCP.signed, remedy: TCP.unsign)]
        }
        if context.isCarried(socket.localAddress) { return [] }
        return [
            probe.socketRefusal(
                "tcp \(probe.endpoints)", "listens on an address of this host that does not move",
                remedy: "bind it to the virtual address or to the wildcard address")
        ]
    }

    static func capture(_ probe: DescriptorProbe, in context: any CaptureContext) throws(ResourceError) -> Bytes {
        let subject = "pid \(probe.pid) fd \(probe.number) (tcp \(probe.endpoints))"
        let socket = try step(subject, "cannot be taken") { () throws(KernelError) in
            try context.take(pid: probe.pid, number: probe.number)
        }
        let settings = try SocketSettings.capture(
            socket, SocketOption.common + SocketOption.transmission + SocketOption.unconnectedTransmission,
            subject: subject)
        let record = try step(subject, "cannot be read") { () throws(KernelError) in
            let info = try TCP.Information(of: socket)
            return (
                Record(
                    family: Int32(probe.socket?.family ?? 2), protocolNumber: TCP.protocolNumber(probe),
                    address: try Socket.localAddress(socket), backlog: Int32(clamping: info.backlog),
                    settings: settings), info.pending
            )
        }
        guard record.1 == 0 else { throw ResourceError(subject, TransientProblem.pendingConnections) }
        return try Payload.encode(record.0, for: subject)
    }

    static func restore(
        _ description: DescriptionImage, index: Int32, in embryo: any EmbryoPort, context: any RestoreContext
    ) throws(ResourceError) -> Int32 {
        let record = try Payload.decode(Record.self, from: description, index: index)
        return try step("pid \(embryo.pid) listener \(record.address)", "cannot be made") { () throws(KernelError) in
            let number = try SocketMaker.make(
                record.family, 1, record.protocolNumber, in: embryo, context: context)
            let socket = try embryo.take(number)
            try record.settings.early.apply(to: socket)
            try record.settings.applyReuse(to: socket)
            try SocketMaker.bind(socket, record.address)
            try record.settings.late.apply(to: socket)
            try record.settings.applyBuffers(to: socket)
            try Socket.setStatusFlags(socket, description.statusFlags)
            try Socket.listen(socket, backlog: record.backlog)
            return number
        }
    }
}
