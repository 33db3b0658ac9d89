import Addressing
import BusContract
import BusService
import Glibc
import Kernel
import Migration
import Units

/// The annotated units of this host.
extension NodeManager {
    /// Reads every annotated unit again and tells what changed.
    func refreshServices() {
        var fresh: [String: ServiceInfo] = [:]
        do {
            let systemd = try SystemdClient()
            let views = try annotatedUnits(systemd).map { unit in (unit, view: load(unit, systemd: systemd)) }
            findConflicts(views.compactMap { try? $0.view.get().annotation })
            let table = try host.addresses.list()
            let places = views.flatMap { (try? $0.view.get().interfaces(in: table)) ?? [] }
            attachHoldQueue(places)
            separateClients(of: places, table, isAll: true)
            for (unit, view) in views { fresh[unit] = describe(unit, view, table) }
        } catch {
            log.error("reading the annotated units: \(error)")
            return
        }
        let old = state.withLock { state in
            defer { state.services = fresh }
            return state.services
        }
        for (unit, info) in fresh.sorted(by: { $0.key < $1.key }) {
            guard let known = old[unit] else {
                post(.serviceAdded(info))
                continue
            }
            if known != info { post(.serviceChanged(info)) }
        }
        for unit in old.keys.sorted() where fresh[unit] == nil { post(.serviceRemoved(unit: unit)) }
    }

    /// Has this host's own clients of these addresses use one of the host's, wherever the service is.
    ///
    /// - Parameter isAll: of no others from now on.
    private func separateClients(
        of places: [(Addressing.VirtualAddress, NetworkInterface)], _ table: AddressTable, isAll: Bool
    ) {
        guard let clients else { return }
        let pairs = places.compactMap { address, nic in table.own(beside: address, on: nic).map { (address, $0) } }
        do throws(AddressingError) {
            if isAll { try clients.set(pairs) } else { try clients.add(pairs) }
        } catch {
            log.warning("this host's clients of the virtual addresses are not told apart: \(error)")
        }
    }

    /// Puts the hold queue's programs on the NICs that these units use, long before one of them moves here.
    private func attachHoldQueue(_ places: [(Addressing.VirtualAddress, NetworkInterface)]) {
        for nic in Set(places.map(\.1)) {
            do throws(AddressingError) { try host.hold.attach(to: nic) } catch {
                log.warning("the hold queue is put on \(nic.name) only at the first claim: \(error)")
            }
        }
    }

    /// The names of all units with an [X-Mobility] section, right or wrong; of a template its loaded instances.
    private func annotatedUnits(_ systemd: SystemdClient) throws(SystemdError) -> Set<String> {
        var found: Set<String> = []
        let search = UnitSearch()
        for name in search.names() where name.type == "service" {
            guard let files = search.files(of: name) else { continue }
            do throws(AnnotationErrors) {
                if try search.annotation(of: files) == nil { continue }
            } catch {
                log.debug("\(error)")
            }
            if name.isTemplate && !name.isInstance {
                let pattern = name.full.split(separator: "@").first.map { "\($0)@*.service" } ?? name.full
                found.formUnion(try systemd.listUnits(pattern).map(\.name))
            } else {
                found.insert(files.unit)
            }
        }
        return found
    }

    /// Reads one unit again; adds it when it is new.
    func refresh(_ unit: String) {
        guard let systemd = try? SystemdClient() else { return }
        let loaded = load(unit, systemd: systemd)
        guard let table = try? host.addresses.list() else { return }
        // A unit whose address has no interface here is told so when it claims it.
        let places = (try? loaded.get().interfaces(in: table)) ?? []
        separateClients(of: places, table, isAll: false)
        let info = describe(unit, loaded, table)
        let isNew = state.withLock { state in
            defer { state.services[unit] = info }
            return state.services[unit] == nil
        }
        post(isNew ? .serviceAdded(info) : .serviceChanged(info))
    }

    private func load(_ unit: String, systemd: SystemdClient) -> Result<UnitView, MoveError> {
        do throws(MoveError) { return .success(try UnitView.load(unit, systemd: systemd)) } catch {
            return .failure(error)
        }
    }

    /// An address belongs to one unit: of two that claim it neither may have it, and each is told of the other.
    private func findConflicts(_ annotations: [Annotation]) {
        let found = Annotation.conflicts(among: annotations).map { unit, errors in
            (unit, AnnotationErrors(unit: unit, errors: errors))
        }
        state.withLock { $0.conflicts = Dictionary(uniqueKeysWithValues: found) }
    }

    private func describe(
        _ unit: String, _ loaded: Result<UnitView, MoveError>, _ table: AddressTable
    ) -> ServiceInfo {
        var info = ServiceInfo(unit: unit, state: .local, node: nodeName)
        let (conflict, claimProblem) = state.withLock { ($0.conflicts[unit], $0.claimProblems[unit]) }
        info.error = claimProblem ?? ""
        do throws(MoveError) {
            let view = try loaded.get()
            info.virtualAddresses = view.addresses.map(\.description)
            info.dnsName = view.annotation.dnsName ?? ""
            if let (_, interface) = try? view.interfaces(in: table).first { info.interface = interface.name }
            if let cgroup = try? view.cgroup() {
                info.connectHookAttached = (try? host.hook.isAttached(unit: unit, cgroupPath: cgroup.path)) ?? false
            }
            if let conflict { throw MoveError(.badAnnotation, "\(conflict)") }
        } catch {
            info.state = .failed
            info.error = error.problem
            log.error("\(error.problem)", metadata: ["unit": "\(unit)"])
            return info
        }
        let (departing, arriving) = state.withLock { ($0.departing.contains(unit), $0.arriving.contains(unit)) }
        if departing {
            info.state = .departing
            if case .inDoubt(_, let node) = host.ownership.state(of: unit) {
                info.error = "in doubt: node \(node) has not said yet whether it runs the service"
            }
        } else if arriving {
            info.state = .arriving
        } else if case .departed(let node) = host.ownership.state(of: unit) {
            info.state = .remote
            info.node = node
        } else if case .inDoubt(_, let node) = host.ownership.state(of: unit) {
            info.state = .failed
            info.error = "in doubt: node \(node) has not said whether it runs the service"
        } else if case .unknown(let why) = host.ownership.state(of: unit) {
            info.state = .failed
            info.error = "whose it is cannot be read: \(why)"
        }
        return info
    }

    func arrivalEntered(_ unit: String, _ phase: Phase) {
        state.withLock { state in
            if phase.isFinal { state.arriving.remove(unit) } else { state.arriving.insert(unit) }
        }
        // Not after a roll-back, which has taken everything off, and after which the next attempt may be at work here.
        if phase == .done { releaseIfEnded(unit) }
        refresh(unit)
    }

    // MARK: - Starting and stopping

    public func mayStart(unit: String, completion: @escaping Completion<StartPermission>) {
        answer("may-start", completion) { [self] () throws(BusFault) in
            switch host.ownership.state(of: unit) {
            case .here: return StartPermission(allowed: true)
            case .arrived(_, let source): return askSource(unit, source)
            case .inDoubt(_, let node):
                return StartPermission(
                    allowed: false,
                    why: "a move to node \(node) is in doubt; mobilityd goes on asking it which of the two runs \(unit)"
                )
            case .departed(let node): return askElsewhere(unit, node)
            case .unknown(let why):
                return StartPermission(
                    allowed: false, why: "whose \(unit) is cannot be read, and another node may run it: \(why)")
            }
        }
    }

    /// How long a start waits for the word of the unit's source, ms.
    private static let confirmation: Int64 = 10_000

    /// A unit that has arrived here may start again once its source has given it up. It does so at once, unless it was
    /// resolved otherwise while this host was off.
    private func askSource(_ unit: String, _ source: String) -> StartPermission {
        let deadline = Deadline.after(milliseconds: Self.confirmation)
        do throws(MoveError) {
            while true {
                switch try host.confirmArrival(of: unit) {
                case .departed: return StartPermission(allowed: true)
                case .kept:
                    try host.follow(unit, to: source)
                    return askElsewhere(unit, source)
                case .undecided where deadline.hasPassed:
                    return StartPermission(
                        allowed: false, why: "node \(source), from which \(unit) came, has not yet given it up")
                case .undecided: usleep(200_000)
                }
            }
        } catch {
            return StartPermission(
                allowed: false,
                why: "node \(source), from which \(unit) came, has not confirmed that it gave it up, and cannot be "
                    + "asked: \(error); if that host is off, `mobilityctl resolve \(unit) --keep --other-host-is-off`")
        }
    }

    /// A unit that left may start here again when the node it went to says that it does not run it, and has not given
    /// it to a third.
    private func askElsewhere(_ unit: String, _ first: String) -> StartPermission {
        var (node, asked) = (first, Set<String>())
        do throws(MoveError) {
            while asked.insert(node).inserted {
                switch try host.whereabouts(of: unit, from: node) {
                case .taken:
                    return StartPermission(
                        allowed: false,
                        why: "\(unit) runs on node \(node); bring it back there with "
                            + "`mobilityctl migrate \(unit) \(nodeName)`")
                case .free:
                    try host.reclaim(unit)
                    refresh(unit)
                    return StartPermission(allowed: true)
                case .passedOn(let next):
                    try host.follow(unit, to: next)
                    node = next
                }
            }
            return StartPermission(
                allowed: false, why: "each of the nodes \(asked.sorted()) says that \(unit) is another's")
        } catch {
            return StartPermission(
                allowed: false, why: "node \(node), which has \(unit), cannot be asked whether it runs there: \(error)")
        }
    }

    public func resolve(
        unit: String, keep: Bool, otherHostIsOff: Bool, completion: @escaping Completion<Void>
    ) {
        answer("resolve", completion) { [self] () throws(BusFault) in
            guard otherHostIsOff else {
                throw BusFault(
                    .invalidArgument,
                    "a unit in doubt is resolved only once the other host is known to be off, or fenced so that it "
                        + "cannot come back without a new start; say so with other_host_is_off")
            }
            do throws(MoveError) { try host.resolve(unit, keep ? .keep : .giveUp) } catch { throw BusFault(error) }
            refresh(unit)
        }
    }

    public func claimAddress(unit: String, completion: @escaping Completion<Void>) {
        answer("claim", completion) { [self] () throws(BusFault) in
            if state.withLock({ $0.arriving.contains(unit) }) { return }
            do throws(MoveError) {
                if let conflict = state.withLock({ $0.conflicts[unit] }) {
                    throw MoveError(.badAnnotation, "\(conflict)")
                }
                try AddressClaim(host: host, unit: unit).claim(
                    others: services().map { service in
                        (
                            unit: service.unit,
                            addresses: service.virtualAddresses.compactMap { VirtualAddress(text: $0) }
                        )
                    })
            } catch {
                // The reason outlives this start: `mobilityctl status` shows it until one succeeds.
                state.withLock { $0.claimProblems[unit] = error.problem }
                log.error("claiming the addresses of \(unit): \(error)", metadata: ["unit": "\(unit)"])
                refresh(unit)
                throw BusFault(error)
            }
            state.withLock { _ = $0.claimProblems.removeValue(forKey: unit) }
            log.notice("claimed the addresses of \(unit)", metadata: ["unit": "\(unit)"])
            refresh(unit)
        }
    }

    public func releaseAddress(unit: String, completion: @escaping Completion<Void>) {
        answer("release", completion) { [self] () throws(BusFault) in
            // In a move the addresses are the move's own business.
            if state.withLock({ $0.arriving.contains(unit) || $0.departing.contains(unit) }) { return }
            do throws(MoveError) { try AddressClaim(host: host, unit: unit).release() } catch {
                throw BusFault(error)
            }
            refresh(unit)
        }
    }
}

extension BusFault {
    /// The bus's code for why a move did not take place.
    init(_ error: MoveError) {
        let code: FaultCode =
            switch error.kind {
            case .refused: .checkFailed
            case .invalid: .invalidArgument
            case .badAnnotation: .badAnnotation
            case .addressInUse: .addressInUse
            case .addressUnavailable: .addressUnavailable
            case .channel: .nodeUnreachable
            case .step, .changed, .reshaped: .rolledBack
            case .cancelled: .cancelled
            }
        self.init(code, error.problem)
    }
}
