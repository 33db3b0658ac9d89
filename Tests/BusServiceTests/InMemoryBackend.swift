import BusContract
import BusService
import Synchronization

/// A backend whose migrations go on when the test says so. It stands for everything behind the bus; what is tested is
/// the bus.
final class InMemoryBackend: ManagerBackend {
    let nodeName = "a"
    let features = ["ipv6", "connect-hook"]

    struct State {
        var services: [String: ServiceInfo] = [:]
        var migrations: [MigrationID: MigrationInfo] = [:]
        var nodes: [String: NodeInfo] = [:]
        var options: [MigrationOptions] = []
        var calls: [String] = []
        var observer: (@Sendable (BackendEvent) -> Void)?
        /// Completions that the test lets go.
        var held: [@Sendable () -> Void] = []
        var holdsCompletions = false
        /// Each new migration goes through all phases at once.
        var finishesAtOnce = false
    }

    let state = Mutex(State())

    init() {
        state.withLock { state in
            state.services["web.service"] = ServiceInfo(
                unit: "web.service", virtualAddresses: ["10.10.10.11/24", "fd00::11/64"], interface: "eth0",
                dnsName: "web.example.org", state: .local, node: "a", connectHookAttached: true)
            state.services["bad@1.service"] = ServiceInfo(
                unit: "bad@1.service", state: .failed, node: "a",
                error: "/etc/systemd/system/bad@.service:7: VirtualAddress: not an address")
            state.nodes["a"] = NodeInfo(name: "a", address: "10.10.10.2:7413", state: .own)
            state.nodes["node-b"] = NodeInfo(name: "node-b", address: "10.10.10.3:7413", state: .online)
        }
    }

    private func post(_ event: BackendEvent) { state.withLock { $0.observer }?(event) }

    private func note(_ call: String) { state.withLock { $0.calls.append(call) } }

    /// Answers now, or when `releaseCompletions` is called.
    private func later(_ body: @escaping @Sendable () -> Void) {
        let isHeld = state.withLock { state in
            if state.holdsCompletions { state.held.append(body) }
            return state.holdsCompletions
        }
        if !isHeld { body() }
    }

    func releaseCompletions() {
        let held = state.withLock { state in
            defer { state.held = [] }
            return state.held
        }
        held.forEach { $0() }
    }

    /// Puts a migration into its next state, as a thread of the real backend does: first the state, then the event.
    func advance(_ id: MigrationID, _ change: (inout MigrationInfo) -> Void) {
        let info = state.withLock { state -> MigrationInfo? in
            guard var info = state.migrations[id] else { return nil }
            change(&info)
            state.migrations[id] = info
            return info
        }
        guard let info else { return }
        post(info.phase.isFinal ? .migrationFinished(info) : .migrationPhase(info))
    }

    func say(_ id: MigrationID, _ line: String) { post(.logMessage(id, priority: 6, line: line)) }

    func forget(_ id: MigrationID) {
        state.withLock { _ = $0.migrations.removeValue(forKey: id) }
        post(.migrationForgotten(id))
    }

    func finish(_ id: MigrationID) {
        advance(id) {
            $0.phase = .precopy; $0.round = 2; $0.bytesTotal = 4096; $0.bytesSent = 4096
        }
        advance(id) { $0.phase = .frozen }
        advance(id) { $0.phase = .committing }
        advance(id) { info in
            info.phase = .done
            info.frozenMicroseconds = 9_100
            info.downtimeMicroseconds = 12_345
            info.downtimeParts = [
                DowntimePart("capture", microseconds: 4_000), DowntimePart("transfer", microseconds: 8_345),
            ]
        }
    }

    func services() -> [ServiceInfo] { state.withLock { Array($0.services.values) } }
    func service(_ unit: String) -> ServiceInfo? { state.withLock { $0.services[unit] } }
    func migrations() -> [MigrationInfo] { state.withLock { Array($0.migrations.values) } }
    func migration(_ id: MigrationID) -> MigrationInfo? { state.withLock { $0.migrations[id] } }
    func nodes() -> [NodeInfo] { state.withLock { Array($0.nodes.values) } }
    func node(_ name: String) -> NodeInfo? { state.withLock { $0.nodes[name] } }

    func migrate(unit: String, to node: String, options: MigrationOptions) throws(BusFault) -> MigrationID {
        guard self.node(node) != nil else { throw BusFault(.noSuchNode, "node \(node) is not enrolled on this host") }
        let (info, finishes) = state.withLock { state in
            let id = MigrationID(rawValue: UInt32(state.migrations.count + 1))
            let info = MigrationInfo(id: id, unit: unit, source: "a", destination: node, phase: .checking)
            state.migrations[id] = info
            state.options.append(options)
            return (info, state.finishesAtOnce)
        }
        post(.migrationNew(info))
        if finishes { finish(info.id) }
        return info.id
    }

    func drain(node: String, options: MigrationOptions, completion: @escaping Completion<[MigrationID]>) {
        do throws(BusFault) {
            let target = options.destination.isEmpty ? "node-b" : options.destination
            completion(.success([try migrate(unit: "web.service", to: target, options: options)]))
        } catch {
            completion(.failure(error))
        }
    }

    func cancel(_ id: MigrationID) throws(BusFault) {
        guard let info = migration(id), !info.phase.isFinal, info.phase != .committing else {
            throw BusFault(.tooLate, "migration \(id) cannot be rolled back any more")
        }
        advance(id) {
            $0.phase = .rolledBack; $0.fault = BusFault(.cancelled, "cancelled by request")
        }
    }

    func check(unit: String, node: String, completion: @escaping Completion<[CheckResult]>) {
        later {
            completion(
                .success([
                    CheckResult(check: "pids", subject: "4711", passed: true, why: ""),
                    CheckResult(check: "files", subject: "/srv/data", passed: false, why: "differs on \(node)"),
                ]))
        }
    }

    func resolve(unit: String, keep: Bool, otherHostIsOff: Bool, completion: @escaping Completion<Void>) {
        note("resolve \(unit) \(keep ? "keep" : "give-up") \(otherHostIsOff)")
        later { completion(.success(())) }
    }

    func mayStart(unit: String, completion: @escaping Completion<StartPermission>) {
        note("may-start \(unit)")
        let departed = unit == "departed.service"
        later { completion(.success(StartPermission(allowed: !departed, why: departed ? "it runs on node-b" : ""))) }
    }

    func claimAddress(unit: String, completion: @escaping Completion<Void>) {
        note("claim \(unit)")
        let isTaken = unit == "taken.service"
        later {
            completion(
                isTaken ? .failure(BusFault(.addressInUse, "10.10.10.12 is used by 02:00:00:00:00:07")) : .success(()))
        }
    }

    func releaseAddress(unit: String, completion: @escaping Completion<Void>) {
        note("release \(unit)")
        later { completion(.success(())) }
    }

    func reload(completion: @escaping Completion<Void>) {
        note("reload")
        completion(.success(()))
    }

    func setObserver(_ observer: @escaping @Sendable (BackendEvent) -> Void) {
        state.withLock { $0.observer = observer }
    }

    func shutDown(completion: @escaping Completion<Void>) { completion(.success(())) }
}
