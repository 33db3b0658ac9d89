import Glibc
import Kernel
import KernelCapture
import ProcessImage

/// The connection is made in repair mode, in which bind(2), connect(2) and send(2) only set state; it stays in that
/// mode until the move is committed.
extension TCPConnection {
    static func restore(
        _ description: DescriptionImage, index: Int32, in embryo: any EmbryoPort, context: any RestoreContext
    ) throws(ResourceError) -> Int32 {
        let record = try Payload.decode(Record.self, from: description, index: index)
        let number = try step("pid \(embryo.pid) \(record.subject)", "cannot be made") { () throws(KernelError) in
            try SocketMaker.make(record.family, 1, 6, in: embryo, context: context)
        }
        try build(record, number, flags: description.statusFlags, in: embryo, context: context)
        return number
    }

    static func restoreAll(
        _ indices: [Int32], in embryo: any EmbryoPort, context: any RestoreContext
    ) throws(ResourceError) -> [Int32] {
        var records: [Record] = []
        for index in indices {
            records.append(
                try Payload.decode(Record.self, from: context.image.descriptions[Int(index)], index: index))
        }
        let numbers = try step("pid \(embryo.pid)", "connections cannot be made") { () throws(KernelError) in
            try SocketMaker.make(
                records.map { .init(family: $0.family, type: 1, protocolNumber: 6) }, in: embryo, context: context)
        }
        let defaults = Defaults()
        for (position, index) in indices.enumerated() {
            try build(
                records[position], numbers[position], flags: context.image.descriptions[Int(index)].statusFlags,
                in: embryo, context: context, defaults)
        }
        return numbers
    }

    /// What new sockets have for options, by family: before bind(2), and once connected.
    private final class Defaults {
        private var early: [Int32: OptionDefaults] = [:], late: [Int32: OptionDefaults] = [:]

        func early(_ family: Int32) -> OptionDefaults { Self.entry(&early, family) }
        func late(_ family: Int32) -> OptionDefaults { Self.entry(&late, family) }

        private static func entry(_ table: inout [Int32: OptionDefaults], _ family: Int32) -> OptionDefaults {
            if let known = table[family] { return known }
            let new = OptionDefaults()
            table[family] = new
            return new
        }
    }

    /// A congestion window tells nothing of a path that was not used for longer, ns; RFC 2861 halves it each RTO, which
    /// the kernel does for what it sends itself.
    private static let staleness: Int64 = 1_000_000_000

    /// Gives the embryo's new socket `number` the connection's state.
    private static func build(
        _ record: Record, _ number: Int32, flags: Int32, in embryo: any EmbryoPort, context: any RestoreContext,
        _ defaults: Defaults = Defaults()
    ) throws(ResourceError) {
        try step("pid \(embryo.pid) \(record.subject)", "cannot be made") { () throws(KernelError) in
            let socket = try embryo.take(number)
            try TCP.set(socket, TCP.repair, TCP.on)
            try establish(record, on: socket, defaults)
            if record.isLost {
                // Dissolving an association in repair mode leaves ECONNABORTED as the socket's error.
                try Socket.connect(socket, .unspecified)
                try TCP.set(socket, TCP.repair, TCP.offSilently)
                try record.settings.applyReuse(to: socket)
            } else {
                if record.congestion != .initial, context.frozenNanoseconds < staleness {
                    // Without it the connection is slower for a while.
                    try? context.congestion?.give(record.congestion, to: socket)
                }
                try negotiate(record, elapsed: context.frozenNanoseconds, on: socket, defaults)
                // Before the queues as well: the size of segments is bounded by half the largest window seen.
                try setWindow(record, received: record.receiveSequence, on: socket)
                try learnPath(record, of: socket)
                try fillQueues(record, of: socket)
                try finish(record, on: socket)
            }
            try Socket.setStatusFlags(socket, flags)
        }
    }

    /// Sequence numbers, addresses and the service's options: an ESTABLISHED socket with empty queues.
    private static func establish(
        _ record: Record, on socket: borrowing FileDescriptor, _ defaults: Defaults
    ) throws(KernelError) {
        try TCP.set(socket, TCP.repairQueue, TCP.sendQueue)
        try TCP.set(socket, TCP.queueSequence, record.firstInQueue)
        try TCP.set(socket, TCP.repairQueue, TCP.receiveQueue)
        try TCP.set(socket, TCP.queueSequence, record.receiveSequence)
        try TCP.set(socket, TCP.repairQueue, TCP.noQueue)
        let (level, name) = SocketMaker.transparency(record.family)
        let old = record.settings.early.value(level, name)
        try record.settings.early.apply(
            to: socket, besides: (level, name), defaults: defaults.early(record.family))
        try record.settings.widen(
            socket, sending: record.sent.count + record.unsent.count, receiving: record.received.count)
        try Socket.setInteger(socket, level, name, 1)
        try Socket.bind(socket, record.local)
        // connect(2) computes the segment size from the path's MTU and this bound, and nothing later does: without it
        // segments would stay at 536 bytes.
        let isSane = (88...32_767).contains(record.maximumSegment)
        if isSane { try TCP.set(socket, TCP.maximumSegment, record.maximumSegment) }
        try Socket.connect(socket, record.remote)
        if isSane { try TCP.set(socket, TCP.maximumSegment, UInt32(0)) }
        try Socket.setOption(socket, level, name, old ?? [0, 0, 0, 0])
    }

    /// What both ends agreed on in the handshake, the timestamp clock, and the service's own options.
    private static func negotiate(
        _ record: Record, elapsed: Int64, on socket: borrowing FileDescriptor, _ defaults: Defaults
    ) throws(KernelError) {
        // struct tcp_repair_opt: kind (TCPOPT_MSS 2, WINDOW 3, SACK_PERM 4, TIMESTAMP 8) and value.
        var options: [(UInt32, UInt32)] = [(2, record.maximumSegment)]
        if record.options & 4 != 0 {
            options.append((3, UInt32(record.sendScale) | UInt32(record.receiveScale) << 16))
        }
        if record.options & 2 != 0 { options.append((4, 0)) }
        if record.options & 1 != 0 { options.append((8, 0)) }
        let bytes = options.flatMap { option in
            [option.0, option.1].flatMap { word in withUnsafeBytes(of: word) { Array($0) } }
        }
        try Socket.setOption(socket, SocketOption.tcp, TCP.repairOptions, bytes)
        if record.options & 1 != 0 {
            let value = advanced(record.timestamp, nanoseconds: elapsed)
            try TCP.set(socket, TCP.timestamp, value)
        }
        try record.settings.late.apply(to: socket, defaults: defaults.late(record.family))
    }

    /// The timestamp clock after `nanoseconds`. The getter hides bit 0 of a millisecond clock, so a clock set to
    /// what it said may stand one tick before what the peer has seen, and the peer would drop the segment (RFC 7323,
    /// 5.3): at least two ticks are added.
    static func advanced(_ timestamp: UInt32, nanoseconds: Int64) -> UInt32 {
        if timestamp & 1 == 1 {
            let microseconds = UInt32(truncatingIfNeeded: max(2, nanoseconds / 1000))
            return (timestamp &+ microseconds) | 1
        }
        let milliseconds = UInt32(truncatingIfNeeded: max(2, nanoseconds / 1_000_000))
        return (timestamp &+ milliseconds &+ 1) & ~1
    }

    /// What a router told the source of the path: this host would send too large segments first, which are lost. It
    /// learns for all that it sends there; connections that are made later know it from the start.
    private static func learnPath(_ record: Record, of socket: borrowing FileDescriptor) throws(KernelError) {
        let family = record.addressFamily
        // Both headers without options.
        let largest = record.maximumSegment + (family == AF_INET6 ? 60 : 40)
        guard record.pathMTU < largest, record.pathMTU < (try TCP.Information(of: socket).pathMTU),
            let mtu = UInt16(exactly: record.pathMTU), mtu >= PacketTooBig.least(family)
        else { return }
        try PacketTooBig(local: record.local, remote: record.remote, sequence: record.firstInQueue, mtu: mtu).send()
        // A socket may have asked not to believe it (IP_PMTUDISC_PROBE): routers tell it anew.
        _ = try awaitLoopback(limit: 50_000_000) { () throws(KernelError) in
            try TCP.Information(of: socket).pathMTU <= record.pathMTU
        }
    }

    /// Waits until a packet sent over loopback has been dealt with: mostly before sendto(2) returns, but a busy kernel
    /// leaves it to ksoftirqd. Says whether it was within `limit`, ns.
    private static func awaitLoopback(
        limit: Int64, _ isDone: () throws(KernelError) -> Bool
    ) throws(KernelError) -> Bool {
        let deadline = Clock.monotonic + limit
        while try !isDone() {
            guard Clock.monotonic < deadline else { return false }
            sched_yield()
        }
        return true
    }

    private static func fillQueues(
        _ record: Record, of socket: borrowing FileDescriptor
    ) throws(KernelError) {
        if !record.received.isEmpty {
            try TCP.set(socket, TCP.repairQueue, TCP.receiveQueue)
            try Socket.sendAll(socket, record.received.content)
        }
        if record.carriesRoundTrip || !record.sent.isEmpty {
            try TCP.set(socket, TCP.repairQueue, TCP.sendQueue)
            if record.carriesRoundTrip { try Socket.sendAll(socket, [0]) }
            try Socket.sendAll(socket, record.sent.content)
        }
        try TCP.set(socket, TCP.repairQueue, TCP.noQueue)
    }

    /// The window, and the FINs of a connection that is half closed or closing. The peer's FIN, and its acknowledgement
    /// of ours, come as segments over the loopback interface: nothing else moves the state machine.
    private static func finish(_ record: Record, on socket: borrowing FileDescriptor) throws(KernelError) {
        let received = record.receiveSequence &+ UInt32(record.received.count)
        let window = try setWindow(record, received: received, on: socket)
        guard record.state != TCP.established else { return try stopReading(record, socket) }
        let segment = record.segment(sequence: received, window)
        let end = record.sendSequence &+ UInt32(record.sent.count)
        switch record.state {
        case TCP.closeWait, TCP.lastAck:
            try segment.send(acknowledging: record.firstInQueue, finish: true)
            if record.state == TCP.lastAck && !record.finUnsent { try shutDown(socket) }
        case TCP.closing:
            if !record.finUnsent { try shutDown(socket) }
            try segment.send(acknowledging: record.firstInQueue, finish: true)
        case TCP.finWait2:
            try shutDown(socket)
            try segment.send(acknowledging: end &+ 1, finish: false)
            try stopReading(record, socket)
        default:
            if !record.finUnsent { try shutDown(socket) }
            try stopReading(record, socket)
        }
        try Socket.setOption(socket, SocketOption.tcp, TCP.repairWindow, record.window.content)
        try verify(record, socket)
    }

    /// Sets the window as captured, but for what would lie beyond `received`, which the kernel refuses.
    @discardableResult
    private static func setWindow(
        _ record: Record, received: UInt32, on socket: borrowing FileDescriptor
    ) throws(KernelError) -> TCPRepairWindow {
        guard var window = TCPRepairWindow(record.window.content) else {
            throw KernelError(call: "setsockopt", object: "TCP_REPAIR_WINDOW", code: .invalidArgument)
        }
        if Int32(bitPattern: window.receiveAnnounced &- received) > 0 { window.receiveAnnounced = received }
        if Int32(bitPattern: window.sendUpdateSequence &- received &- window.receiveWindow) > 0 {
            window.sendUpdateSequence = received
        }
        try Socket.setOption(socket, SocketOption.tcp, TCP.repairWindow, window.bytes)
        return window
    }

    /// The service itself has shut down reading.
    private static func stopReading(_ record: Record, _ socket: borrowing FileDescriptor) throws(KernelError) {
        if record.shutdown & 1 != 0 && !TCP.peerFinished.contains(record.state) { try Socket.shutdown(socket, 0) }
    }

    /// Our FIN as one already sent: on the send queue of a socket in repair mode nothing goes out.
    private static func shutDown(_ socket: borrowing FileDescriptor) throws(KernelError) {
        try TCP.set(socket, TCP.repairQueue, TCP.sendQueue)
        try Socket.shutdown(socket, 1)
        try TCP.set(socket, TCP.repairQueue, TCP.noQueue)
    }

    /// A state that was not reached means that the virtual address is not on this host.
    private static func verify(_ record: Record, _ socket: borrowing FileDescriptor) throws(KernelError) {
        var expected = record.state
        if record.finUnsent {
            expected = TCP.peerFinished.contains(record.state) ? TCP.closeWait : TCP.established
        }
        let isReached = try awaitLoopback(limit: 1_000_000_000) { () throws(KernelError) in
            try TCP.Information(of: socket).state == expected
        }
        guard isReached else {
            throw KernelError(call: "sendto", object: "\(record.local) over loopback", code: .timedOut)
        }
    }

    static var isActivated: Bool { true }

    static func activate(
        _ description: DescriptionImage, index: Int32, context: any RestoreContext
    ) throws(ResourceError) {
        let record = try Payload.decode(Record.self, from: description, index: index)
        guard !record.isLost else { return }
        try step(record.subject, "cannot leave repair mode") { () throws(KernelError) in
            let socket = try context.take(description: index)
            guard try TCP.get(socket, TCP.repair) != 0 else { return }
            if record.carriesRoundTrip { try measure(record, on: socket, context.parked) }
            // With a window probe: the peer answers at once what it has received meanwhile.
            try TCP.set(socket, TCP.repair, TCP.off)
            try record.settings.applyReuse(to: socket)
            try Socket.sendAll(socket, record.unsent.content)
            if record.finUnsent { try Socket.shutdown(socket, 1) }
            try record.settings.applyBuffers(to: socket)
        }
    }

    /// Gives the socket its measure of the round trip, and the peer's latest timestamp: it acknowledges the byte ahead
    /// of its queue with an echo as old as the round trip took (RFC 7323, 4.1). Without it a segment that was lost just
    /// before the move would be sent again after 3 s (TCP_TIMEOUT_FALLBACK) and not after a few round trips. Only once
    /// the move is committed: a retransmission might come due before.
    private static func measure(
        _ record: Record, on socket: borrowing FileDescriptor, _ parked: ParkedDescriptors
    ) throws(KernelError) {
        guard let window = TCPRepairWindow(record.window.content) else { return }
        let now = try TCP.get(socket, TCP.timestamp)
        let age = now & 1 == 1 ? record.roundTrip : max(1, record.roundTrip / 1000)
        let peerFin: UInt32 = TCP.peerFinished.contains(record.state) ? 1 : 0
        var segment = record.segment(
            sequence: record.receiveSequence &+ UInt32(record.received.count) &+ peerFin, window)
        // TCPOPT_NOP twice, TCPOPT_TIMESTAMP.
        segment.options = [record.timestampRecent, now &- age].reduce([1, 1, 8, 10]) { options, value in
            options + withUnsafeBytes(of: value.bigEndian) { Array($0) }
        }
        try parked.send(segment, acknowledging: record.sendSequence, record.addressFamily)
    }
}

extension TCPConnection.Record {
    /// A byte that the peer has acknowledged long ago stands ahead of the queue until the socket lives.
    var carriesRoundTrip: Bool { options & 1 != 0 && roundTrip > 0 && state != TCP.finWait2 }

    fileprivate var congestion: CongestionWindow {
        CongestionWindow(segments: congestionWindow, threshold: slowStartThreshold)
    }

    var firstInQueue: UInt32 { sendSequence &- (carriesRoundTrip ? 1 : 0) }

    /// Of the packets: an IPv6 socket may have a peer of IPv4, ipv6(7).
    fileprivate var addressFamily: Int32 { local.ipv4Bytes == nil ? AF_INET6 : AF_INET }

    /// A segment of the peer's, empty.
    fileprivate func segment(sequence: UInt32, _ window: TCPRepairWindow) -> TCPSegment {
        TCPSegment(
            source: remote, destination: local, sequence: sequence,
            window: UInt16(clamping: window.sendWindow >> UInt32(sendScale)))
    }
}
