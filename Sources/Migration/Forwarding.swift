import Addressing
import Glibc
import Kernel
import Logging
import Synchronization

/// After a move: clients and routers with an old neighbour entry still send to this host. What reaches it is sent on to
/// the destination, until nothing has come for a while; then the addresses are given up.
///
/// The service has long settled at its destination when this ends, so it runs on a thread of its own. It ends early
/// when an address is wanted here again.
final class Forwarding: Sendable {
    /// Frames are sent on until none has come for so long, ms.
    static let quiet: Int64 = 3000
    /// But no longer than this, ms. Who passes over announcements asks again at the end of his entry's life, which is
    /// at most a minute in Linux (45 s until it is stale, then 8 s of questions to this host; arp(7)). An entry made
    /// by hand lives for ever: its owner has to change it.
    static let limit: Int64 = 120_000
    /// Between looks at the queues, ms.
    private static let pause: Int32 = 2

    let unit: String
    private let lanes: [HoldLane]
    private let conversation: Conversation
    private let host: Host
    private let log: Logger
    private let isWanted = Atomic<Bool>(true)
    private let keepsHold = Atomic<Bool>(false)
    private let finished: Promise<Bool>?

    init(unit: String, lanes: [HoldLane], conversation: Conversation, host: Host, log: Logger) {
        self.unit = unit
        self.lanes = lanes
        self.conversation = conversation
        self.host = host
        self.log = log
        finished = try? Promise()
    }

    /// Whether it has to do with the address.
    func concerns(_ address: VirtualAddress) -> Bool { lanes.contains { $0.address.bytes == address.bytes } }

    func start() {
        host.forwardings.add(self)
        do throws(KernelError) {
            try BlockingThread.start("forward \(unit)") { [self] in run() }
        } catch {
            log.warning("packets that come late are lost; their senders repeat them: \(error)")
            isWanted.store(false, ordering: .relaxed)
            run()
        }
    }

    /// Asks for its end and waits for it: then nothing of the addresses is left here, or, for a service that is on its
    /// way back, they are still held, with what waits.
    func end(keepingHold: Bool = false) {
        keepsHold.store(keepingHold, ordering: .relaxed)
        isWanted.store(false, ordering: .relaxed)
        _ = finished?.wait(milliseconds: 5000)
    }

    private func run() {
        Waypoint.sourceForwarding.pass()
        forward()
        for lane in lanes {
            if let counters = try? lane.queue.counters(lane.address) {
                log.info("\(lane.address): \(counters.heldPackets) packets held, \(counters.silenced) silenced")
            }
            if keepsHold.load(ordering: .relaxed) { continue }
            attempt("ending the hold of \(lane.address)") { try lane.close() }
        }
        conversation.channel.close()
        host.forwardings.remove(self)
        finished?.fulfil(true)
    }

    private func forward() {
        let limit = Deadline.after(milliseconds: Self.limit)
        var quiet = Deadline.after(milliseconds: Self.quiet)
        do {
            while !quiet.hasPassed, !limit.hasPassed, isWanted.load(ordering: .relaxed) {
                for lane in lanes {
                    while let frames = try lane.take() {
                        try conversation.send(.frames, frames)
                        quiet = .after(milliseconds: Self.quiet)
                    }
                }
                usleep(UInt32(Self.pause) * 1000)
            }
            if limit.hasPassed {
                log.warning(
                    """
                    clients of \(unit) that still send to this host are heard no more: their neighbour entry for it, \
                    or a router's, does not change
                    """)
            }
            for _ in lanes { try conversation.send(.framesEnd) }
        } catch {
            log.notice("forwarding ends early: \(error)")
        }
    }

    private func attempt(_ what: String, _ body: () throws -> Void) {
        do { try body() } catch { log.error("\(what): \(error)") }
    }
}

/// The forwardings under way on this host.
final class ForwardingTable: Sendable {
    private let table = Mutex<[Forwarding]>([])

    func add(_ forwarding: Forwarding) { table.withLock { $0.append(forwarding) } }
    func remove(_ forwarding: Forwarding) { table.withLock { $0.removeAll { $0 === forwarding } } }

    /// Ends what concerns one of the addresses, and waits for it.
    func end(_ addresses: [VirtualAddress], keepingHold: Bool = false) {
        let wanted = table.withLock { table in table.filter { addresses.contains(where: $0.concerns) } }
        wanted.forEach { $0.end(keepingHold: keepingHold) }
    }

    /// Ends all; for the end of the daemon.
    func endAll() { table.withLock { $0 }.forEach { $0.end() } }
}
