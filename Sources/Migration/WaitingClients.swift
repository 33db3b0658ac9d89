import Addressing
import Glibc
import Kernel
import KernelCapture
import Logging
import ProcessImage
import Resources
import Units

/// The clients of a frozen service that nobody has accepted yet: those in the accept queues of its listeners, which
/// are taken out of them, and those whose handshake is not over.
final class WaitingClients {
    /// A client that has not completed its handshake, or whose completing is not known here.
    struct HalfOpen: Codable, Sendable {
        var handshake: TCPHandshake
        var isComplete: Bool
    }

    let unit: String
    private let hold: HoldQueue
    private let log: Logger
    private let drained: DrainedConnections
    /// Those whom a former move had made expected on this host.
    private var expected: [TCPHandshake] = []

    init(unit: String, host: Host) {
        self.unit = unit
        hold = host.hold
        log = host.log
        drained = DrainedConnections()
    }

    /// What a former process of this daemon had taken out; nil when there is nothing.
    init?(unit: String, host: Host, adopting sockets: [Int32]) {
        if sockets.isEmpty { return nil }
        self.unit = unit
        hold = host.hold
        log = host.log
        drained = DrainedConnections(adopting: sockets)
    }

    /// Takes the queues of a frozen service. From here on `putBack` or `end` is owed.
    func take(
        _ descriptors: [DescriptorProbe], in context: CheckContext
    ) throws(ResourceError) -> [WaitingConnection] {
        try drained.accept(from: descriptors) { sockets throws(KernelError) in
            try DescriptorStore.keep(sockets, for: unit)
        }
        let found = try drained.read(in: context)
        if drained.count > 0 {
            log.info("\(found.count) of \(drained.count) connections that \(unit) has not accepted go along")
        }
        return found
    }

    /// Handshakes under way at these addresses (16 bytes each): those of the kernel, and those that came here by a
    /// move and whose clients have not answered since. Nothing is changed.
    func halfOpen(
        at addresses: [[UInt8]], besides descriptors: [DescriptorProbe], _ waiting: [WaitingConnection],
        module: CaptureModule
    ) throws -> [HalfOpen] {
        let isUnderWay = descriptors.contains { $0.socket?.halfOpen ?? 0 > 0 }
        let own = isUnderWay ? try module.handshakes().filter { addresses.contains($0.handshake.local.address) } : []
        expected = try hold.expected(at: addresses)
        if expected.isEmpty { return own.map { HalfOpen(handshake: $0.handshake, isComplete: $0.isComplete) } }
        // What is a connection by now is still expected until it is heard of again.
        var known = Set(own.map { Ends($0.handshake.local, $0.handshake.remote) })
        known.formUnion(descriptors.compactMap(\.socket).map { Ends($0) })
        known.formUnion(waiting.map { Ends($0.handshake.local, $0.handshake.remote) })
        return own.map { HalfOpen(handshake: $0.handshake, isComplete: $0.isComplete) }
            + expected.filter { !known.contains(Ends($0.local, $0.remote)) }
            .map { HalfOpen(handshake: $0, isComplete: false) }
    }

    /// The two ends of a connection, of either family, as 16 bytes and a port.
    private struct Ends: Hashable {
        let addresses: [[UInt8]]
        let ports: [UInt16]

        init(_ local: SocketName, _ remote: SocketName) {
            addresses = [local.address, remote.address]
            ports = [local.port, remote.port]
        }
        init(_ socket: SocketRecord) {
            addresses = [socket.localAddress, socket.remoteAddress]
            ports = [socket.localPort, socket.remotePort]
        }
    }

    /// They wait in the queues of the service's listeners again, in their order, while packets are still held.
    func putBack() throws {
        if drained.count == 0 { return }
        let (connections, problems) = drained.dissolve()
        DescriptorStore.remove(unit)
        do throws(MoveError) { try Self.put(connections, through: hold) } catch {
            throw MoveError(.step, (problems + [error.problem]).joined(separator: "; "))
        }
        if let first = problems.first { throw MoveError(.step, first) }
    }

    /// They are another host's: they end here without a packet.
    func end() {
        for handshake in expected { try? hold.forget(handshake) }
        if drained.count == 0 { return }
        _ = drained.dissolve()
        DescriptorStore.remove(unit)
    }

    // MARK: - Where they go

    /// Only for the addresses that move: whoever sent this can then do no more than any client of them.
    static func admit(_ message: ImageMessage, at lanes: [HoldLane]) throws(MoveError) {
        let own = Set(lanes.map(\.address.mapped))
        for handshake in message.waiting.map(\.handshake) + message.halfOpen.map(\.handshake)
        where !own.contains(handshake.local.address) || !handshake.remote.isInternet {
            throw MoveError(
                .channel, "a client that waits at \(handshake.local), which is not an address of the service")
        }
    }

    /// Payload of one segment, bytes. With its headers it fills the 8 KiB that the kernel allocates for it, so that the
    /// receive buffer, which counts what is allocated, takes as much as it did before. A raw IPv6 socket holds to the
    /// MTU of the interface that has the address (net/ipv6/raw.c, rawv6_send_hdrinc): to the least that there is.
    private static func segment(_ handshake: TCPHandshake) -> Int {
        handshake.local.ipv4Bytes != nil ? 7_400 : 1_280 - 60
    }
    /// Segments over loopback are handled before sendto(2) returns, or right after, ns. Where they wait for another
    /// processor and there are too many (net.core.netdev_max_backlog), some are lost and come again.
    private static let repetition: Int64 = 20_000_000, patience: Int64 = 1_000_000_000

    /// Makes each of them in the accept queue of the listener for its address on this host, which must have the
    /// address. They have been `elapsed` nanoseconds on their way. What this host answers is held back by its lanes.
    static func put(
        _ connections: [WaitingConnection], elapsed: Int64 = 0, through hold: HoldQueue
    ) throws(MoveError) {
        if connections.isEmpty { return }
        guard HoldQueue.takesHandshakes else {
            throw MoveError(
                .step,
                "\(connections.count) connections wait to be accepted, which this kernel takes up only while"
                    + " net.ipv4.tcp_syncookies is not 0")
        }
        try SourceMove.step("putting \(connections.count) connections into the accept queue") {
            defer { for connection in connections { try? hold.forget(connection.handshake) } }
            for connection in connections {
                try hold.expect(connection.handshake.later(by: elapsed))
                try awaitQueued(connection, hold)
            }
            try awaitAll(connections)
        }
    }

    /// The next one is not sent before this one has its place: on another processor it could overtake.
    private static func awaitQueued(_ connection: WaitingConnection, _ hold: HoldQueue) throws {
        let deadline = Clock.monotonic + patience
        var next = Clock.monotonic
        repeat {
            if Clock.monotonic >= next {
                try replay(connection)
                next = Clock.monotonic + repetition
            } else {
                sched_yield()
            }
            guard Clock.monotonic < deadline else {
                throw MoveError(.step, "the listener does not take \(connection.subject)")
            }
        } while try hold.isExpected(connection.handshake)
    }

    /// What the client sent once it had our SYN, as if it came now; and at the end a segment more, which shows that the
    /// connection is there.
    private static func replay(_ connection: WaitingConnection) throws(KernelError) {
        let handshake = connection.handshake
        let bytes = connection.received.content
        func send(_ payload: ArraySlice<UInt8>, finish: Bool = false) throws(KernelError) {
            var part = TCPSegment(
                source: handshake.remote, destination: handshake.local,
                sequence: handshake.receiveSequence &+ UInt32(payload.startIndex),
                window: UInt16(clamping: connection.sendWindow >> UInt32(handshake.sendScale)))
            part.payload = Array(payload)
            try part.send(acknowledging: handshake.sendSequence, finish: finish)
        }
        try send(bytes[..<0])
        let size = segment(handshake)
        for start in stride(from: 0, to: bytes.count, by: size) {
            try send(bytes[start..<min(start + size, bytes.count)])
        }
        try send(bytes[bytes.count...], finish: connection.isFinished)
    }

    private static func awaitAll(_ connections: [WaitingConnection]) throws {
        let deadline = Clock.monotonic + patience
        var next = Clock.monotonic + repetition
        while true {
            let missing = try missing(connections)
            if missing.isEmpty { return }
            if Clock.monotonic > next {
                for connection in missing { try replay(connection) }
                next = Clock.monotonic + repetition
            }
            guard Clock.monotonic < deadline else {
                throw MoveError(
                    .step, "\(missing.count) were not taken up with all that they had sent, \(missing[0].subject) first"
                )
            }
            sched_yield()
        }
    }

    private static func missing(_ connections: [WaitingConnection]) throws(KernelError) -> [WaitingConnection] {
        var unread: [[SocketName]: UInt32] = [:]
        for row in try TCPTable.unaccepted() { unread[[row.local, row.remote]] = row.unread }
        return connections.filter { connection in
            let key = [connection.handshake.local, connection.handshake.remote].map {
                SocketName.ip($0.address, port: $0.port, family: AF_INET6)
            }
            // A FIN takes one number of the sequence space.
            return unread[key] != UInt32(connection.received.count + (connection.isFinished ? 1 : 0))
        }
    }

    // MARK: - Half-open

    /// When a client that does not answer is asked again, ms after the time before; as long as the kernel would.
    private static let repetitions: [Int32] = [1000, 2000, 4000, 8000, 16_000]

    /// Handshakes that a service left behind at these addresses when it moved away: without their listener they stay
    /// until their timers run out (net/ipv4/inet_connection_sock.c, reqsk_timer_handler), and no other socket can have
    /// the same ends meanwhile, although the client is connected since.
    static func leftovers(at lanes: [HoldLane], _ module: CaptureModule) throws(MoveError) -> [TCPHandshake] {
        let addresses = lanes.map(\.address.mapped)
        return try SourceMove.step("reading handshakes") {
            try module.handshakes().map(\.handshake).filter { addresses.contains($0.local.address) }
        }
    }

    /// Ends them. A segment does (net/ipv4/tcp_ipv4.c, tcp_v4_rcv): a reset, since that is never answered. The host
    /// must have these addresses. One that stays all the same will be named where its ends are wanted.
    static func endLeftovers(at lanes: [HoldLane], _ module: CaptureModule) throws {
        let deadline = Deadline.after(milliseconds: 50)
        while case let found = try leftovers(at: lanes, module), !found.isEmpty, !deadline.hasPassed {
            for handshake in found {
                try TCPSegment(
                    source: handshake.remote, destination: handshake.local, sequence: handshake.receiveSequence,
                    window: 0
                ).send(acknowledging: 0, [.rst])
            }
            sched_yield()
        }
    }

    /// From now on the next segment of each makes its connection. They are sent our SYN again at once, for some wait
    /// for that, and until they have answered.
    static func expect(
        _ clients: [HalfOpen], elapsed: Int64, through host: Host, _ lanes: [HoldLane]
    ) throws {
        if clients.isEmpty { return }
        let later = clients.map { HalfOpen($0, later: elapsed) }
        for client in later { try host.hold.expect(client.handshake) }
        // Its data will come; it was told that we have its last segment.
        let asked = later.filter { !$0.isComplete }
        let units = Dictionary(lanes.map { ($0.address.mapped, $0.interface) }) { first, _ in first }
        let mtus = try units.mapValues { try $0.mtu() }
        if asked.isEmpty { return }
        ask(asked, mtus, host, after: 0)
        let started = Clock.monotonic
        try BlockingThread.start("handshakes") {
            for pause in repetitions {
                usleep(UInt32(pause) * 1000)
                let silent = asked.filter { (try? host.hold.isExpected($0.handshake)) ?? false }
                if silent.isEmpty { return }
                ask(silent, mtus, host, after: Clock.monotonic - started)
            }
        }
    }

    /// The second segment of a handshake, RFC 9293, 3.5: who has had it before answers with what it has.
    private static func ask(_ clients: [HalfOpen], _ mtus: [[UInt8]: Int32], _ host: Host, after elapsed: Int64) {
        for client in clients {
            let handshake = client.handshake.later(by: elapsed)
            var part = TCPSegment(
                source: handshake.local, destination: handshake.remote, sequence: handshake.sendSequence &- 1,
                window: openingWindow)
            let headers: Int32 = handshake.local.ipv4Bytes == nil ? 60 : 40
            part.options = handshake.synOptions(
                segment: UInt16(clamping: (mtus[handshake.local.address] ?? 1280) - headers))
            do throws(KernelError) {
                try part.send(acknowledging: handshake.receiveSequence, [.syn, .ack])
            } catch {
                host.log.warning("a client in its handshake, \(handshake.remote), is not asked again: \(error)")
            }
        }
    }

    /// Ten segments, as much as any host takes; the next segment tells more.
    private static let openingWindow: UInt16 = 14_600
}

extension WaitingClients.HalfOpen {
    fileprivate init(_ other: Self, later nanoseconds: Int64) {
        self = other
        handshake = other.handshake.later(by: nanoseconds)
    }
}
