import Glibc
import Kernel
import KernelCapture
import ProcessImage

/// A connection in a listener's accept queue: nobody has accepted it, so no descriptor of the service shows it.
public struct WaitingConnection: Codable, Sendable {
    public var handshake: TCPHandshake
    public var received: Bytes
    /// The peer has sent its FIN behind these bytes.
    public var isFinished: Bool
    /// The peer's window, bytes.
    public var sendWindow: UInt32

    public var subject: String { "tcp \(handshake.local) ↔ \(handshake.remote)" }
}

/// Connections taken out of the accept queues of a frozen service. They live in descriptors of this daemon until they
/// are dissolved, and are then to be put into the queues of the same listeners here or on another host.
public final class DrainedConnections {
    private final class Owned {
        let socket: FileDescriptor
        init(_ socket: consuming FileDescriptor) { self.socket = socket }
    }

    /// In the order in which they waited.
    private var sockets: [Owned] = []

    public init() {}

    /// Those that a former process of the daemon took; whoever kept the descriptors need not have kept their order.
    public init(adopting descriptors: [Int32]) {
        let turns = descriptors.map { raw in
            let owned = Owned(FileDescriptor(owning: raw))
            return (turn: (try? Socket.integer(owned.socket, SocketOption.socket, Self.mark)) ?? 0, owned)
        }
        sockets = turns.sorted { $0.turn < $1.turn }.map(\.1)
    }

    /// SO_MARK. It tells a drained socket's turn: no packet of it will ever carry it.
    private static let mark: Int32 = 36

    public var count: Int { sockets.count }

    /// How many are taken at once before `keep` is told of them.
    private static let batch = 64

    /// Accepts what waits. `keep` gets the new descriptors before anything else is done with them, so that they can
    /// outlive this process.
    public func accept(
        from descriptors: [DescriptorProbe], keep: ([Int32]) throws(KernelError) -> Void
    ) throws(ResourceError) {
        var seen: Set<UInt64> = []
        for probe in descriptors where TCPListener.recognises(probe) && seen.insert(probe.inode).inserted {
            guard let socket = probe.socket, socket.acceptQueue > 0 else { continue }
            try step("\(probe.subject) (tcp \(probe.endpoints))", "its accept queue cannot be taken") {
                () throws(KernelError) in
                let listener = try ProcessDescriptors.take(pid: probe.pid, number: probe.number)
                while true {
                    let new = try Self.acceptSome(listener)
                    if new.isEmpty { return }
                    for (index, owned) in new.enumerated() {
                        try Socket.setInteger(
                            owned.socket, SocketOption.socket, Self.mark, Int32(sockets.count + index + 1))
                    }
                    sockets += new
                    try keep(new.map { $0.socket.raw })
                }
            }
        }
    }

    private static func acceptSome(_ listener: borrowing FileDescriptor) throws(KernelError) -> [Owned] {
        var taken: [Owned] = []
        while taken.count < batch, try Pipe.poll(listener, POLLIN) & POLLIN != 0 {
            do throws(KernelError) { taken.append(Owned(try Socket.accept(listener))) } catch {
                if taken.isEmpty { throw error }
                break
            }
        }
        return taken
    }

    /// Puts each in repair mode, in which it goes without a word when its descriptor is closed, and reads it.
    /// One that its peer has reset is left out: there is nobody any more who waits.
    public func read(in context: CheckContext) throws(ResourceError) -> [WaitingConnection] {
        var found: [WaitingConnection] = []
        for held in sockets {
            guard let connection = try Self.read(held.socket) else { continue }
            let (local, remote) = (connection.handshake.local.address, connection.handshake.remote.address)
            if local == remote || SocketName.isLoopback(remote) {
                throw ResourceError(connection.subject, "waits to be accepted, and its other end is on this host")
            }
            if context.virtualAddresses.contains(local) {
                found.append(connection)
            } else if !context.allowsLoss {
                throw ResourceError(
                    connection.subject,
                    "waits to be accepted and would be lost: its local address is not a virtual address of the unit")
            }
        }
        return found
    }

    /// Ends them here without a packet, and returns what they were; what went wrong, one line each.
    public func dissolve() -> (connections: [WaitingConnection], problems: [String]) {
        var connections: [WaitingConnection] = []
        var problems: [String] = []
        for held in sockets {
            do throws(ResourceError) {
                if let connection = try Self.read(held.socket) { connections.append(connection) }
                try step("a connection that waited", "cannot be dissolved") { () throws(KernelError) in
                    // In repair mode that sends nothing (net/ipv4/tcp.c, tcp_disconnect), however many descriptors of
                    // it there are.
                    try Socket.connect(held.socket, .unspecified)
                }
            } catch {
                problems.append("\(error)")
            }
        }
        sockets = []
        return (connections, problems)
    }

    private static func read(_ socket: borrowing FileDescriptor) throws(ResourceError) -> WaitingConnection? {
        var subject = "a connection that waits to be accepted"
        let (record, hasECN) = try step(subject, "cannot be read") { () throws(KernelError) in
            let info = try TCP.Information(of: socket)
            guard info.state != TCP.closed else { return (TCPConnection.Record?.none, false) }
            let (local, remote) = (try Socket.localAddress(socket), try Socket.remoteAddress(socket))
            try TCP.set(socket, TCP.repair, TCP.on)
            return (
                TCPConnection.Record(
                    family: local.family, state: info.state, shutdown: 0, local: local, remote: remote, isLost: false,
                    settings: SocketSettings()), info.options & 8 != 0
            )
        }
        guard var record else { return nil }
        subject = record.subject
        try TCPConnection.readState(of: socket, into: &record, subject: subject)
        guard record.state == TCP.established || record.state == TCP.closeWait else {
            throw ResourceError(subject, "waits to be accepted in state \(record.state)")
        }
        guard let window = TCPRepairWindow(record.window.content) else {
            throw ResourceError(subject, "its window cannot be read")
        }
        return WaitingConnection(
            handshake: TCPHandshake(
                local: record.local, remote: record.remote, sendSequence: record.sendSequence,
                receiveSequence: record.receiveSequence,
                maximumSegment: UInt16(clamping: record.maximumSegment),
                options: record.options & 7 | (hasECN ? 8 : 0), sendScale: record.sendScale,
                receiveScale: record.receiveScale, timestamp: record.timestamp & ~1,
                countsMicroseconds: record.timestamp & 1 != 0, timestampRecent: 0),
            received: record.received,
            isFinished: record.state == TCP.closeWait, sendWindow: window.sendWindow)
    }
}
