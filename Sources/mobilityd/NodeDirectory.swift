import BusContract
import BusService
import Kernel
import Logging
import Peering
import Synchronization

/// A node without services: it knows itself and whom it is enrolled with, and guards no unit.
final class NodeDirectory: ManagerBackend {
    let nodeName: String
    let features: [String] = []
    private let root: String
    private let log: Logger
    private let state: Mutex<State>

    private struct State {
        var nodes: [NodeInfo]
        var observer: (@Sendable (BackendEvent) -> Void)?
    }

    init(root: String, log: Logger) throws {
        self.root = root
        self.log = log
        nodeName = try NodeSettings.load(root: root).name
        state = Mutex(State(nodes: try Self.read(root: root)))
    }

    private static func read(root: String) throws -> [NodeInfo] {
        let own = try NodeSettings.load(root: root)
        let peers = try Enrolment.peers(root: root).map { peer in
            NodeInfo(name: peer.name, address: endpoint(peer.address, peer.port), state: .unknown)
        }
        return [NodeInfo(name: own.name, address: endpoint(own.listen ?? "*", own.port), state: .own)] + peers
    }

    private static func endpoint(_ address: String, _ port: UInt16) -> String {
        address.contains(":") ? "[\(address)]:\(port)" : "\(address):\(port)"
    }

    func services() -> [ServiceInfo] { [] }
    func service(_ unit: String) -> ServiceInfo? { nil }
    func migrations() -> [MigrationInfo] { [] }
    func migration(_ id: MigrationID) -> MigrationInfo? { nil }
    func nodes() -> [NodeInfo] { state.withLock { $0.nodes } }
    func node(_ name: String) -> NodeInfo? { nodes().first { $0.name == name } }

    private static func unknown(_ unit: String) -> BusFault {
        BusFault(.noSuchService, "unit \(unit) has no [X-Mobility] section or is not loaded")
    }

    func migrate(unit: String, to node: String, options: MigrationOptions) throws(BusFault) -> MigrationID {
        throw Self.unknown(unit)
    }

    func drain(node: String, options: MigrationOptions, completion: @escaping Completion<[MigrationID]>) {
        completion(.success([]))
    }

    func cancel(_ id: MigrationID) throws(BusFault) {
        throw BusFault(.noSuchMigration, "no migration \(id) is known")
    }

    func check(unit: String, node: String, completion: @escaping Completion<[CheckResult]>) {
        completion(.failure(Self.unknown(unit)))
    }

    func mayStart(unit: String, completion: @escaping Completion<StartPermission>) {
        completion(.failure(Self.unknown(unit)))
    }

    func claimAddress(unit: String, completion: @escaping Completion<Void>) {
        completion(.failure(Self.unknown(unit)))
    }

    func releaseAddress(unit: String, completion: @escaping Completion<Void>) {
        completion(.success(()))
    }

    func reload(completion: @escaping Completion<Void>) {
        do {
            let fresh = try Self.read(root: root)
            let (old, observer) = state.withLock { state in
                defer { state.nodes = fresh }
                return (state.nodes, state.observer)
            }
            for node in fresh {
                guard let known = old.first(where: { $0.name == node.name }) else {
                    observer?(.nodeAdded(node))
                    continue
                }
                if known != node { observer?(.nodeChanged(node)) }
            }
            for node in old where !fresh.contains(where: { $0.name == node.name }) {
                observer?(.nodeRemoved(name: node.name))
            }
            completion(.success(()))
        } catch {
            completion(.failure(BusFault(.invalidArgument, "\(error)")))
        }
    }

    func setObserver(_ observer: @escaping @Sendable (BackendEvent) -> Void) {
        state.withLock { $0.observer = observer }
    }

    func shutDown(completion: @escaping Completion<Void>) { completion(.success(())) }
}
