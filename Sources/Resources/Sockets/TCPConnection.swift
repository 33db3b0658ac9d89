import CKernel
import Glibc
import Kernel
import KernelCapture
import ProcessImage

/// A TCP connection whose handshake is over: carried with both queues, sequence numbers, windows and options, so that
/// the peer sees neither a reset nor a lost byte.
enum TCPConnection: DescriptorKind {
    struct Record: Codable {
        var family: Int32
        var state: UInt8
        /// RCV_SHUTDOWN 1, SEND_SHUTDOWN 2.
        var shutdown: UInt8
        var local: SocketName
        var remote: SocketName
        /// The connection ends here by the administrator's leave (`allow-loss`): the service finds it aborted.
        var isLost: Bool
        var settings: SocketSettings
        /// Sequence numbers of the first byte in each queue.
        var sendSequence: UInt32 = 0
        var receiveSequence: UInt32 = 0
        var received = Bytes()
        /// Sent but not acknowledged, and not yet sent.
        var sent = Bytes()
        var unsent = Bytes()
        /// Our FIN waits behind the unsent bytes.
        var finUnsent = false
        var window = Bytes()
        var maximumSegment: UInt32 = 0
        /// As `TCP.Information` has it.
        var pathMTU: UInt32 = 0
        /// TCPI_OPT_TIMESTAMPS 1, TCPI_OPT_SACK 2, TCPI_OPT_WSCALE 4.
        var options: UInt8 = 0
        var sendScale: UInt8 = 0
        var receiveScale: UInt8 = 0
        /// Our timestamp clock; bit 0 says that it counts microseconds.
        var timestamp: UInt32 = 0
        /// The peer's latest timestamp.
        var timestampRecent: UInt32 = 0
        /// As `TCP.Information` has it.
        var roundTrip: UInt32 = 0
        /// What `CongestionWindow` has.
        var congestionWindow: UInt32 = 0
        var slowStartThreshold: UInt32 = 0

        var subject: String { "tcp \(local) ↔ \(remote)" }
    }
    static let name = "tcp"
    static let stage = RestoreStage.connections

    static func recognises(_ probe: DescriptorProbe) -> Bool {
        TCP.isStream(probe) && TCP.connected.contains(probe.socket?.state ?? 0)
    }

    // MARK: Check

    static func check(_ probe: DescriptorProbe, in context: CheckContext) -> [Refusal] {
        guard let socket = probe.socket else { return [] }
        let object = "tcp \(probe.endpoints)"
        func refuse(_ why: String, _ remedy: String) -> Refusal { probe.socketRefusal(object, why, remedy: remedy) }
        var refusals: [Refusal] = []
        if socket.isMPTCP || socket.protocolNumber == UInt16(TCP.multipath) {
            refusals.append(
                refuse(
                    "is a multipath connection, whose state the kernel does not show", "disable MPTCP in the service"))
        }
        if socket.hasUpperLayer {
            refusals.append(
                refuse(
                    "has an upper layer protocol such as kernel TLS, whose keys the kernel does not show",
                    "disable kernel TLS in the service"))
        }
        if socket.isSigned {
            refusals.append(refuse(TCP.signed, TCP.unsign))
        }
        if SocketName.isLoopback(socket.remoteAddress) || socket.localAddress == socket.remoteAddress {
            let inside = context.descriptors.contains {
                $0.socket?.localAddress == socket.remoteAddress && $0.socket?.localPort == socket.remotePort
                    && $0.socket?.remotePort == socket.localPort
            }
            refusals.append(
                inside
                    ? refuse(
                        "both its ends are inside the unit, and the segments between them cannot be held back",
                        "let the processes talk through a unix socket pair or a pipe")
                    : refuse("its other end is a process of this host outside the unit", "close it before the move"))
        } else if !context.virtualAddresses.contains(socket.localAddress) && !context.allowsLoss {
            refusals.append(
                refuse(
                    "will be lost: its local address is not a virtual address of the unit",
                    "have clients connect to the virtual address, or accept the loss with the option allow-loss"))
        }
        return refusals
    }

    // MARK: Capture

    static func capture(_ probe: DescriptorProbe, in context: any CaptureContext) throws(ResourceError) -> Bytes {
        let subject = "pid \(probe.pid) fd \(probe.number) (tcp \(probe.endpoints))"
        let socket = try step(subject, "cannot be taken") { () throws(KernelError) in
            try context.take(pid: probe.pid, number: probe.number)
        }
        let settings = try SocketSettings.capture(
            socket, SocketOption.common + SocketOption.transmission, subject: subject)
        var record = try step(subject, "cannot be read") { () throws(KernelError) in
            Record(
                family: Int32(probe.socket?.family ?? 2), state: try TCP.Information(of: socket).state,
                shutdown: probe.socket?.shutdown ?? 0, local: try Socket.localAddress(socket),
                remote: try Socket.remoteAddress(socket), isLost: false, settings: settings)
        }
        record.isLost = !context.check.virtualAddresses.contains(record.local.address)
        record.timestampRecent = probe.socket?.timestampRecent ?? 0
        guard TCP.connected.contains(record.state) else { throw ResourceError(subject, TransientProblem.stateChanged) }
        try step(subject, "cannot enter repair mode") { () throws(KernelError) in
            try TCP.set(socket, TCP.repair, TCP.on)
        }
        do throws(ResourceError) {
            try readState(of: socket, into: &record, subject: subject)
            let payload = try Payload.encode(record, for: subject)
            context.hold(socket) { [settings] in release($0, settings) }
            return payload
        } catch {
            release(socket.raw, settings)
            throw error
        }
    }

    /// Undoes a capture: the connection goes on where it was; nothing is sent because of it. Repair mode has
    /// overwritten SO_REUSEADDR.
    static func release(_ number: Int32, _ settings: SocketSettings) {
        let socket = FileDescriptor(owning: number)
        try? TCP.set(socket, TCP.repair, TCP.offSilently)
        try? settings.applyReuse(to: socket)
        _ = socket.release()
    }

    static func readState(
        of socket: borrowing FileDescriptor, into record: inout Record, subject: String
    ) throws(ResourceError) {
        let expected: (receive: Int, send: Int, unsent: Int)
        do throws(KernelError) {
            let info = try TCP.Information(of: socket)
            record.state = info.state
            record.options = info.options
            record.sendScale = info.sendScale
            record.receiveScale = info.receiveScale
            record.pathMTU = info.pathMTU
            record.roundTrip = info.roundTrip
            record.congestionWindow = info.congestion.segments
            record.slowStartThreshold = info.congestion.threshold
            record.maximumSegment = try TCP.get(socket, TCP.maximumSegment)
            record.timestamp = try TCP.get(socket, TCP.timestamp)
            record.window = Bytes(try Socket.option(socket, SocketOption.tcp, TCP.repairWindow, limit: 20))
            let unsent = Int(try Socket.unsent(socket))
            record.finUnsent = TCP.finished.contains(info.state) && unsent > 0
            let ourFin = try finOutstanding(socket, state: info.state)
            expected = (
                Int(try Socket.readable(socket)), Int(try Socket.unacknowledged(socket)) - (ourFin ? 1 : 0),
                unsent - (record.finUnsent ? 1 : 0)
            )
            record.received = Bytes(try TCP.peek(socket, queue: TCP.receiveQueue, count: 1 + expected.receive))
            let queue = try TCP.peek(socket, queue: TCP.sendQueue, count: expected.send)
            guard queue.count == expected.send, expected.unsent <= queue.count else {
                throw KernelError(call: "recv", object: "send queue", code: .invalidArgument)
            }
            record.sent = Bytes(Array(queue.dropLast(expected.unsent)))
            record.unsent = Bytes(Array(queue.suffix(expected.unsent)))
            try readSequences(of: socket, into: &record)
        } catch {
            throw ResourceError(subject, "its queues cannot be read", cause: error)
        }
        guard TCP.connected.contains(record.state) else { throw ResourceError(subject, TransientProblem.stateChanged) }
        guard record.received.count == expected.receive else {
            throw ResourceError(
                subject,
                "urgent data wait in its receive queue, which shows \(expected.receive) bytes"
                    + " but gives \(record.received.count)")
        }
    }

    /// SIOCOUTQ counts an unacknowledged FIN. In FIN_WAIT2 it is acknowledged.
    private static func finOutstanding(
        _ socket: borrowing FileDescriptor, state: UInt8
    ) throws(KernelError) -> Bool {
        TCP.finished.contains(state) && state != TCP.finWait2
    }

    private static func readSequences(
        of socket: borrowing FileDescriptor, into record: inout Record
    ) throws(KernelError) {
        let ourFin: UInt32 = TCP.finished.contains(record.state) ? 1 : 0
        let peerFin: UInt32 = TCP.peerFinished.contains(record.state) ? 1 : 0
        try TCP.set(socket, TCP.repairQueue, TCP.sendQueue)
        let end = try TCP.get(socket, TCP.queueSequence)
        record.sendSequence = end &- UInt32(record.sent.count + record.unsent.count) &- ourFin
        try TCP.set(socket, TCP.repairQueue, TCP.receiveQueue)
        let next = try TCP.get(socket, TCP.queueSequence)
        record.receiveSequence = next &- UInt32(record.received.count) &- peerFin
        try TCP.set(socket, TCP.repairQueue, TCP.noQueue)
    }
}
