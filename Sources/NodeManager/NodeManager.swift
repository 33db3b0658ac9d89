import Addressing
import BusContract
import BusService
import Kernel
import KernelCapture
import Logging
import Migration
import Peering
import Synchronization
import Units

/// What stands behind the bus: the services, moves and nodes of this host.
///
/// Everything the bus asks is answered from memory; what takes longer runs on a thread of its own.
public final class NodeManager: ManagerBackend {
    public let nodeName: String
    public let features = ["capture-bpf", "hold-queue", "connect-hook", "tls1.3"]
    let host: Host
    let log: Logger
    /// Nil where it could not be attached.
    let clients: ClientHook?
    let state = Mutex(State())
    private let listener: PeerListener

    struct Move: Sendable {
        var info: MigrationInfo
        var cancellation: Cancellation
    }

    struct State: Sendable {
        /// Annotated units by name; those with a bad annotation carry the error.
        var services: [String: ServiceInfo] = [:]
        /// Addresses that two units claim, by unit; both stay out of service.
        var conflicts: [String: AnnotationErrors] = [:]
        /// Why a unit's addresses could not be claimed at its last start here, by unit.
        var claimProblems: [String: String] = [:]
        var moves: [MigrationID: Move] = [:]
        var nextMove: UInt32 = 1
        var nodes: [NodeInfo] = []
        /// Units that move in either direction now.
        var departing: Set<String> = []
        var arriving: Set<String> = []
        var observer: (@Sendable (BackendEvent) -> Void)?
        var isStopping = false
    }

    /// How many finished migrations stay readable.
    static let remembered = 64

    public init(root: String = "", log: Logger) throws {
        let settings = try NodeSettings.load(root: root)
        do throws(PeeringError) { try Enrolment.createIdentity(root: root, name: settings.name) } catch {
            // It has one already; anything else shows when it is loaded.
            log.debug("keeping this node's identity: \(error)")
        }
        let identity = try Identity.load(root: root)
        let host = Host(
            identity: identity, log: log, ownership: try OwnershipJournal(),
            hold: try HoldQueue(pinDirectory: "/sys/fs/bpf/mobilityd/hold"),
            hook: ConnectHook(directory: "/sys/fs/bpf/mobilityd/hooks"), capture: try CaptureModule.load())
        self.host = host
        clients = Self.attachClientHook(log)
        self.log = log
        nodeName = identity.name
        let gate = ArrivalGate()
        listener = try PeerListener(
            address: settings.listen, port: settings.port, identity: identity, features: features,
            limits: FrameLimits(bulkTypes: MessageType.bulk), log: { log.warning("\($0)") },
            handler: { channel in
                DestinationMove(host: host, channel: channel) { gate.report($0, $1) }.serve()
            })
        state.withLock { $0.nodes = Self.nodes(settings: settings, identity: identity) }
        gate.open { [weak self] unit, phase in self?.arrivalEntered(unit, phase) }
        refreshServices()
        host.watches.setObserver { [weak self] conflict in
            self?.post(
                .addressConflict(
                    unit: conflict.unit, address: conflict.address.text, hardware: conflict.hardware))
        }
        takeUpUnfinishedMoves()
        resumeOwnership()
    }

    /// Services move without it, but not while a process of their own host is connected to them.
    private static func attachClientHook(_ log: Logger) -> ClientHook? {
        do {
            return try ClientHook(
                directory: "/sys/fs/bpf/mobilityd/clients", cgroupPath: try Cgroup.mountPoint())
        } catch {
            log.warning("processes of this host keep no connection to a service that moves: \(error)")
            return nil
        }
    }

    private static func nodes(settings: NodeSettings, identity: Identity) -> [NodeInfo] {
        let own = NodeInfo(name: identity.name, address: endpoint(settings.listen ?? "*", settings.port), state: .own)
        return [own]
            + identity.peers.values.sorted { $0.name < $1.name }.map {
                NodeInfo(name: $0.name, address: endpoint($0.address, $0.port), state: .unknown)
            }
    }

    private static func endpoint(_ address: String, _ port: UInt16) -> String {
        address.contains(":") ? "[\(address)]:\(port)" : "\(address):\(port)"
    }

    // MARK: - Answers from memory

    public func services() -> [ServiceInfo] {
        state.withLock { $0.services.values.sorted { $0.unit < $1.unit } }
    }
    public func service(_ unit: String) -> ServiceInfo? { state.withLock { $0.services[unit] } }
    public func migrations() -> [MigrationInfo] {
        state.withLock { $0.moves.values.map(\.info).sorted { $0.id < $1.id } }
    }
    public func migration(_ id: MigrationID) -> MigrationInfo? { state.withLock { $0.moves[id]?.info } }
    public func nodes() -> [NodeInfo] { state.withLock { $0.nodes } }
    public func node(_ name: String) -> NodeInfo? { nodes().first { $0.name == name } }
    public func setObserver(_ observer: @escaping @Sendable (BackendEvent) -> Void) {
        state.withLock { $0.observer = observer }
    }

    func post(_ event: BackendEvent) { state.withLock { $0.observer }?(event) }

    /// Runs `body` on a thread of its own and answers with its result.
    func answer<Value: Sendable>(
        _ name: String, _ completion: @escaping Completion<Value>,
        _ body: @escaping @Sendable () throws(BusFault) -> Value
    ) {
        do throws(KernelError) {
            try BlockingThread.start(name) {
                do throws(BusFault) { completion(.success(try body())) } catch { completion(.failure(error)) }
            }
        } catch {
            completion(.failure(BusFault(.internalError, "\(error)")))
        }
    }

    // MARK: - Configuration

    public func reload(completion: @escaping Completion<Void>) {
        answer("reload", completion) { [self] () throws(BusFault) in
            do {
                let settings = try NodeSettings.load()
                let identity = try Identity.load()
                host.identity = identity
                listener.update(identity: identity)
                replaceNodes(Self.nodes(settings: settings, identity: identity))
            } catch {
                throw BusFault(.invalidArgument, "\(error)")
            }
            refreshServices()
        }
    }

    private func replaceNodes(_ fresh: [NodeInfo]) {
        let old = state.withLock { state in
            defer { state.nodes = fresh }
            return state.nodes
        }
        for node in fresh {
            guard let known = old.first(where: { $0.name == node.name }) else {
                post(.nodeAdded(node))
                continue
            }
            if known != node { post(.nodeChanged(node)) }
        }
        for node in old where !fresh.contains(where: { $0.name == node.name }) { post(.nodeRemoved(name: node.name)) }
    }

    public func shutDown(completion: @escaping Completion<Void>) {
        let running = state.withLock { state in
            state.isStopping = true
            return state.moves.values.filter { !$0.info.phase.isFinal }.map(\.cancellation)
        }
        running.forEach { _ = $0.request() }
        listener.stop()
        answer("shut-down", completion) { [self] () throws(BusFault) in
            let deadline = Deadline.after(milliseconds: 20_000)
            while !deadline.hasPassed, migrations().contains(where: { !$0.phase.isFinal }) {
                try? Poll.pause(milliseconds: 20)
            }
            host.endForwarding()
        }
    }
}

/// Lets arrivals report before the manager is complete: what comes earlier waits for nobody, it is dropped.
private final class ArrivalGate: Sendable {
    private let target = Mutex<(@Sendable (String, Phase) -> Void)?>(nil)
    func open(_ handler: @escaping @Sendable (String, Phase) -> Void) { target.withLock { $0 = handler } }
    func report(_ unit: String, _ phase: Phase) { target.withLock { $0 }?(unit, phase) }
}
