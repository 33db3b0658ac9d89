import Glibc
import Kernel
import KernelCapture
import ProcessImage

/// A TCP socket without a connection: new, bound, closed, or with a connect(2) under way, which starts over.
///
/// A handshake that starts over is safe: the service has not sent data, and the peer's answer to the first attempt,
/// held back during the move, is rejected by the new one, after which the peer takes the new one.
enum TCPIdle: DescriptorKind {
    struct Record: Codable {
        var family: Int32
        var protocolNumber: Int32
        var local: SocketName
        /// Where a connect(2) under way goes.
        var connecting: SocketName?
        var settings: SocketSettings
    }
    static let name = "tcp-idle"
    static let stage = RestoreStage.connections

    static func recognises(_ probe: DescriptorProbe) -> Bool {
        TCP.isStream(probe) && [TCP.closed, TCP.synSent].contains(probe.socket?.state ?? 0)
    }

    static func check(_ probe: DescriptorProbe, in context: CheckContext) -> [Refusal] {
        guard let socket = probe.socket else { return [] }
        let object = "tcp \(probe.endpoints)"
        if socket.isSigned { return [probe.socketRefusal(object, TCP.signed, remedy: TCP.unsign)] }
        if context.isCarried(socket.localAddress) { return [] }
        if socket.state == TCP.synSent {
            guard !context.allowsLoss else { return [] }
            return [
                probe.socketRefusal(
                    object, "will be lost: it connects from an address that is not a virtual address of the unit",
                    remedy: "wait until it is closed, or accept the loss with the option allow-loss")
            ]
        }
        return [
            probe.socketRefusal(
                object, "is bound to an address of this host that does not move",
                remedy: "bind it to the virtual address or to the wildcard address")
        ]
    }

    static func capture(_ probe: DescriptorProbe, in context: any CaptureContext) throws(ResourceError) -> Bytes {
        let subject = "pid \(probe.pid) fd \(probe.number) (tcp \(probe.endpoints))"
        let socket = try step(subject, "cannot be taken") { () throws(KernelError) in
            try context.take(pid: probe.pid, number: probe.number)
        }
        let connecting = probe.socket?.state == TCP.synSent
        let settings = try SocketSettings.capture(
            socket,
            SocketOption.common + SocketOption.transmission
                + (connecting ? [] : SocketOption.unconnectedTransmission),
            subject: subject)
        let (state, local) = try step(subject, "cannot be read") { () throws(KernelError) in
            (try TCP.Information(of: socket).state, try Socket.localAddress(socket))
        }
        guard state == (connecting ? TCP.synSent : TCP.closed) else {
            throw ResourceError(subject, TransientProblem.stateChanged)
        }
        var record = Record(
            family: Int32(probe.socket?.family ?? 2), protocolNumber: TCP.protocolNumber(probe), local: local,
            connecting: nil, settings: settings)
        if connecting, let remote = probe.socket {
            record.connecting = .ip(remote.remoteAddress, port: remote.remotePort, family: record.family)
            if !context.check.virtualAddresses.contains(local.address) {
                record.local = .ip([UInt8](repeating: 0, count: 16), port: 0, family: record.family)
            }
        }
        let payload = try Payload.encode(record, for: subject)
        if connecting {
            try step(subject, "cannot enter repair mode") { () throws(KernelError) in
                try TCP.set(socket, TCP.repair, TCP.on)
            }
            context.hold(socket) { TCPConnection.release($0, settings) }
        }
        return payload
    }

    static func restore(
        _ description: DescriptionImage, index: Int32, in embryo: any EmbryoPort, context: any RestoreContext
    ) throws(ResourceError) -> Int32 {
        let record = try Payload.decode(Record.self, from: description, index: index)
        return try step("pid \(embryo.pid) tcp \(record.local)", "cannot be made") { () throws(KernelError) in
            let number = try SocketMaker.make(record.family, 1, record.protocolNumber, in: embryo, context: context)
            let socket = try embryo.take(number)
            try record.settings.early.apply(to: socket)
            try record.settings.applyReuse(to: socket)
            if record.local.port != 0 { try SocketMaker.bind(socket, record.local) }
            try record.settings.late.apply(to: socket)
            try record.settings.applyBuffers(to: socket)
            try Socket.setStatusFlags(socket, description.statusFlags)
            return number
        }
    }

    static var isActivated: Bool { true }

    static func activate(
        _ description: DescriptionImage, index: Int32, context: any RestoreContext
    ) throws(ResourceError) {
        let record = try Payload.decode(Record.self, from: description, index: index)
        guard let target = record.connecting else { return }
        try step("tcp \(record.local) ↔ \(target)", "cannot start to connect again") { () throws(KernelError) in
            let socket = try context.take(description: index)
            guard try TCP.Information(of: socket).state == TCP.closed else { return }
            try Socket.setStatusFlags(socket, O_NONBLOCK)
            do throws(KernelError) {
                try Socket.connect(socket, target)
            } catch  where error.code.rawValue == EINPROGRESS {}
            try Socket.setStatusFlags(socket, description.statusFlags)
        }
    }
}
