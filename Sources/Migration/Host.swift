import Addressing
import Capture
import Kernel
import KernelCapture
import Logging
import Peering
import Synchronization
import Units

/// What the moves of this host share: who it is, what it has learned, and the kernel objects it keeps.
public final class Host: Sendable {
    public let name: String
    public let log: Logger
    public let ownership: OwnershipJournal
    public let hold: HoldQueue
    public let hook: ConnectHook
    public let addresses = AddressManager()
    public let capture: CaptureModule
    let congestion: CongestionModule?
    public let digests = FileDigests()
    public let moves = MoveTable()
    let doubts = DoubtTable()
    let forwardings = ForwardingTable()
    let managerReload: ManagerReload
    public let watches: AddressWatches
    private let identityBox: Mutex<Identity>
    /// Connections that a former process of this daemon had taken out of accept queues, by unit.
    private let kept = Mutex<[String: [Int32]]>(DescriptorStore.takeBack())
    /// Made when it is first needed.
    private let announcer = Mutex<Announcer?>(nil)

    public init(
        identity: Identity, log: Logger, ownership: OwnershipJournal, hold: HoldQueue, hook: ConnectHook,
        capture: CaptureModule
    ) {
        name = identity.name
        self.log = log
        self.ownership = ownership
        self.hold = hold
        self.hook = hook
        self.capture = capture
        watches = AddressWatches(log: log)
        congestion = Self.loadCongestion(log)
        managerReload = ManagerReload(log: log)
        identityBox = Mutex(identity)
    }

    /// A service moves without it, and its connections find out anew how much their paths take.
    private static func loadCongestion(_ log: Logger) -> CongestionModule? {
        do throws(CaptureModuleError) { return try CongestionModule.load() } catch {
            log.warning("congestion windows do not go along: \(error)")
            return nil
        }
    }

    public var identity: Identity {
        get { identityBox.withLock { $0 } }
        set { identityBox.withLock { $0 = newValue } }
    }

    /// Connects to an enrolled node.
    func connect(to node: String, within milliseconds: Int64 = 5000) throws(MoveError) -> Conversation {
        let identity = identity
        guard let peer = identity.peers[node] else {
            throw MoveError(.invalid, "node \(node) is not enrolled here; `mobilityctl node add` enrols it")
        }
        do throws(PeeringError) {
            let channel = try Channel.connect(
                to: peer, identity: identity, limits: FrameLimits(bulkTypes: MessageType.bulk),
                deadline: .after(milliseconds: milliseconds))
            return Conversation(channel: channel)
        } catch {
            throw MoveError(.channel, "node \(node) at \(peer.address) cannot be reached: \(error)")
        }
    }

    /// Announces the addresses on the schedule; an earlier schedule of any of them ends.
    ///
    /// With `first`, made beforehand, that announcement is out when this returns. What the service sends afterwards is
    /// answered by its clients at once, and the answers must not still go to the host that had the address before.
    func announce(_ places: [(VirtualAddress, NetworkInterface)], first: Announcement? = nil) {
        var schedule = Announcer.defaultSchedule
        do throws(AddressingError) {
            if let first {
                try first.send()
                schedule.removeAll { $0 == 0 }
            }
        } catch {
            log.error("announcing \(Self.names(places)) at once: \(error)")
        }
        do throws(AddressingError) {
            let announcer = try announcer.withLock { (announcer) throws(AddressingError) in
                if let announcer { return announcer }
                let made = try Announcer()
                announcer = made
                return made
            }
            try announcer.announce(places, schedule: schedule)
        } catch {
            log.error("announcing \(Self.names(places)): \(error)")
        }
    }

    private static func names(_ places: [(VirtualAddress, NetworkInterface)]) -> String {
        places.map(\.0.text).joined(separator: " ")
    }

    /// Hands out what a former process of this daemon kept for the unit, once.
    func takeKept(_ unit: String) -> [Int32] { kept.withLock { $0.removeValue(forKey: unit) } ?? [] }

    /// Nothing is sent on any more to where services have gone; for the end of the daemon.
    public func endForwarding() { forwardings.endAll() }

    /// The fault that a test ordered through the environment counts from here.
    func armFault() {
        guard let plan = FaultSeam.armFromEnvironment() else { return }
        log.warning("a fault is injected: \(plan.call) fails in occurrence \(plan.occurrence) with \(plan.code)")
    }

    func stopAnnouncing(_ addresses: [VirtualAddress]) { announcer.withLock { $0 }?.cancel(addresses) }
}

/// How each move that this host is the destination of was decided. A move is decided once: by the commit that
/// arrives or by the question of a source that lost the wire, whichever comes first.
public final class MoveTable: Sendable {
    enum Decision: Sendable { case committed, abandoned }
    private let decisions = Mutex<[String: Decision]>([:])

    /// Decides that the move never takes effect here, unless it was committed before.
    func abandon(_ move: String) {
        decisions.withLock { if $0[move] == nil { $0[move] = .abandoned } }
    }

    /// Commits the move unless it was abandoned before; false then. The record and the decision are one step for
    /// whoever asks: an answer between the two would let both hosts run the service.
    func commit(_ move: String, unit: String, in journal: OwnershipJournal) throws(KernelError) -> Bool {
        try decisions.withLock { table throws(KernelError) in
            guard table[move] == nil else { return table[move] == .committed }
            do throws(KernelError) { try journal.recordCommitted(move: move, unit: unit) } catch {
                // The name may be there though its directory could not be synced.
                try? journal.forgetMove(move)
                throw error
            }
            table[move] = .committed
            return true
        }
    }

    /// Whether the move was committed. Asking decides: what was not committed by now never is.
    func answer(_ move: String, from journal: OwnershipJournal) throws(KernelError) -> Bool {
        try decisions.withLock { table throws(KernelError) in
            if let decision = table[move] { return decision == .committed }
            let committed = try journal.wasCommitted(move: move)
            table[move] = committed ? .committed : .abandoned
            return committed
        }
    }
}
