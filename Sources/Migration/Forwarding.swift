import Addressing
import Glibc
import Kernel
import Logging
import Synchronization

/// After a move: clients and routers with an old neighbour entry still send to this host for a moment. What reaches it
/// is sent on to the destination; then the addresses are given up.
///
/// The service has long settled at its destination when this ends, so it runs on a thread of its own. It ends early
/// when an address is wanted here again.
final class Forwarding: Sendable {
    /// How long frames are sent on, ms: an entry that nobody refreshes is asked about within a few seconds.
    static let duration: Int64 = 3000
    /// Between looks at the queues, ms.
    private static let pause: Int32 = 2

    let unit: String
    private let lanes: [HoldLane]
    private let conversation: Conversation
    private let host: Host
    private let log: Logger
    private let isWanted = Atomic<Bool>(true)
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

    /// Asks for its end and waits for it: then nothing of the addresses is left here.
    func end() {
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
            attempt("ending the hold of \(lane.address)") { try lane.close() }
        }
        conversation.channel.close()
        host.forwardings.remove(self)
        finished?.fulfil(true)
    }

    private func forward() {
        let end = Deadline.after(milliseconds: Self.duration)
        do {
            while !end.hasPassed, isWanted.load(ordering: .relaxed) {
                for lane in lanes {
                    while let frames = try lane.take() { try conversation.send(.frames, frames) }
                }
                usleep(UInt32(Self.pause) * 1000)
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
    func end(_ addresses: [VirtualAddress]) {
        let wanted = table.withLock { table in table.filter { addresses.contains(where: $0.concerns) } }
        wanted.forEach { $0.end() }
    }

    /// Ends all; for the end of the daemon.
    func endAll() { table.withLock { $0 }.forEach { $0.end() } }
}
