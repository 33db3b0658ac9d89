import BusContract

/// The number of a migration on this node, unique since the daemon's first start.
public struct MigrationID: RawRepresentable, Hashable, Comparable, Sendable, CustomStringConvertible {
    public let rawValue: UInt32
    public init(rawValue: UInt32) { self.rawValue = rawValue }
    public var description: String { "\(rawValue)" }
    public static func < (left: Self, right: Self) -> Bool { left.rawValue < right.rawValue }
}

/// A unit with an `[X-Mobility]` section: what `org.mobilityd1.Service` shows.
public struct ServiceInfo: Equatable, Sendable {
    /// The unit's full name, for example `web.service`.
    public var unit: String
    /// As annotated, with prefix length: `10.10.10.11/24`.
    public var virtualAddresses: [String]
    /// The interface that holds the addresses; empty while none is chosen.
    public var interface: String
    /// Empty if the annotation names none.
    public var dnsName: String
    public var state: ServiceState
    /// The node that runs it.
    public var node: String
    /// The BPF programs that give outgoing connections the service's address are attached to the unit's cgroup.
    public var connectHookAttached: Bool
    /// Why `state` is `.failed`, with file and line where the annotation is wrong; else empty.
    public var error: String

    public init(
        unit: String, virtualAddresses: [String] = [], interface: String = "", dnsName: String = "",
        state: ServiceState, node: String, connectHookAttached: Bool = false, error: String = ""
    ) {
        self.unit = unit
        self.virtualAddresses = virtualAddresses
        self.interface = interface
        self.dnsName = dnsName
        self.state = state
        self.node = node
        self.connectHookAttached = connectHookAttached
        self.error = error
    }
}

/// One part of a downtime, for example `("capture", 4200)`.
public struct DowntimePart: Equatable, Sendable {
    public var name: String
    public var microseconds: UInt64
    public init(_ name: String, microseconds: UInt64) {
        self.name = name
        self.microseconds = microseconds
    }
}

/// A migration, running or finished: what `org.mobilityd1.Migration` shows.
public struct MigrationInfo: Equatable, Sendable {
    public var id: MigrationID
    public var unit: String
    public var source: String
    public var destination: String
    public var phase: MigrationPhase
    /// The pre-copy round, from 1; 0 before the first.
    public var round: UInt32 = 0
    public var bytesTotal: UInt64 = 0
    public var bytesSent: UInt64 = 0
    /// Pages found dirty by the last scan.
    public var pagesDirty: UInt64 = 0
    /// How long the service's processes were frozen, microseconds.
    public var frozenMicroseconds: UInt64 = 0
    /// What the downtime would be if the freeze came now, microseconds.
    public var predictedDowntimeMicroseconds: UInt64 = 0
    /// From the freeze at the source to the first run at the destination, network included, microseconds.
    public var downtimeMicroseconds: UInt64 = 0
    /// What `downtimeMicroseconds` consists of, in order of time.
    public var downtimeParts: [DowntimePart] = []
    /// Why the migration did not end in `.done`; its code becomes the error of `Wait`. Nil while it runs and when done.
    public var fault: BusFault?

    public init(id: MigrationID, unit: String, source: String, destination: String, phase: MigrationPhase) {
        self.id = id
        self.unit = unit
        self.source = source
        self.destination = destination
        self.phase = phase
    }

    /// The property `Result`: empty while it runs, else `done`, `rolled-back`, `cancelled` or `failed`.
    public var result: String {
        if !phase.isFinal { return "" }
        return fault?.code == .cancelled ? "cancelled" : phase.rawValue
    }
}

/// An enrolled node, or this one: what `org.mobilityd1.Node` shows.
public struct NodeInfo: Equatable, Sendable {
    public var name: String
    /// Address and port of its daemon, `10.10.10.3:7413` or `[fd00::3]:7413`.
    public var address: String
    public var state: NodeState

    public init(name: String, address: String, state: NodeState) {
        self.name = name
        self.address = address
        self.state = state
    }
}

/// The outcome of one check before a move.
public struct CheckResult: Equatable, Sendable {
    /// What was checked, a short word: `pids`, `files`, `dns`.
    public var check: String
    /// On what: a path, a process, an address.
    public var subject: String
    public var passed: Bool
    /// Why it failed and what helps, or what was found.
    public var why: String

    public init(check: String, subject: String, passed: Bool, why: String) {
        self.check = check
        self.subject = subject
        self.passed = passed
        self.why = why
    }
}

/// Whether a unit may start on this node.
public struct StartPermission: Equatable, Sendable {
    public var allowed: Bool
    /// Empty if allowed.
    public var why: String
    public init(allowed: Bool, why: String = "") {
        self.allowed = allowed
        self.why = why
    }
}

/// What happened in the backend. The bus service turns each into signals and into answers to those who wait.
public enum BackendEvent: Sendable {
    /// A migration began. Comes before any other event of it.
    case migrationNew(MigrationInfo)
    /// It entered another phase, not a final one.
    case migrationPhase(MigrationInfo)
    /// It is over; `phase` is final. `migration(_:)` must answer with this value before the event is posted.
    case migrationFinished(MigrationInfo)
    /// The backend no longer remembers a finished migration.
    case migrationForgotten(MigrationID)
    /// A line for whoever follows the migration; `priority` as in syslog(3).
    case logMessage(MigrationID, priority: UInt32, line: String)
    /// A service appeared (after a reload).
    case serviceAdded(ServiceInfo)
    case serviceChanged(ServiceInfo)
    case serviceRemoved(unit: String)
    case nodeAdded(NodeInfo)
    case nodeChanged(NodeInfo)
    case nodeRemoved(name: String)
    /// Another host claims an address of a unit that runs here; `hardware` is its hardware address.
    case addressConflict(unit: String, address: String, hardware: String)
}

/// The answer to a question that took time; called once, from any thread.
public typealias Completion<Value> = @Sendable (Result<Value, BusFault>) -> Void

/// Everything the bus needs from the rest of the daemon.
///
/// All members are called on the bus thread and must return at once, from memory: what takes longer runs on its
/// own threads and reports through a completion or an event, which may be called from any thread.
public protocol ManagerBackend: AnyObject, Sendable {
    /// This node's name; constant.
    var nodeName: String { get }
    /// What this host and build can do, for the property `Features`; constant.
    var features: [String] { get }

    func services() -> [ServiceInfo]
    func service(_ unit: String) -> ServiceInfo?
    /// Running migrations and those that finished a while ago.
    func migrations() -> [MigrationInfo]
    func migration(_ id: MigrationID) -> MigrationInfo?
    func nodes() -> [NodeInfo]
    func node(_ name: String) -> NodeInfo?

    /// Registers a migration and begins it; what is known to be impossible is thrown at once.
    func migrate(unit: String, to node: String, options: MigrationOptions) throws(BusFault) -> MigrationID
    /// Moves every service that `node` runs to `options.destination`, or to nodes of the backend's choice.
    func drain(node: String, options: MigrationOptions, completion: @escaping Completion<[MigrationID]>)
    /// Asks a migration to roll back; `.tooLate` once it is committing.
    func cancel(_ id: MigrationID) throws(BusFault)
    func check(unit: String, node: String, completion: @escaping Completion<[CheckResult]>)

    /// Ends the doubt about a unit whose destination does not answer, by an administrator's word that it is off.
    func resolve(unit: String, keep: Bool, otherHostIsOff: Bool, completion: @escaping Completion<Void>)

    func mayStart(unit: String, completion: @escaping Completion<StartPermission>)
    /// Puts the unit's addresses on their interface and attaches the connect hook; probes first, so it takes a while.
    func claimAddress(unit: String, completion: @escaping Completion<Void>)
    /// The reverse; no error if there is nothing to release, and never touches an address owned elsewhere.
    func releaseAddress(unit: String, completion: @escaping Completion<Void>)
    /// Reads configuration, nodes and annotations again.
    func reload(completion: @escaping Completion<Void>)

    /// Sets who is told of events; called once, before anything else.
    func setObserver(_ observer: @escaping @Sendable (BackendEvent) -> Void)
    /// The daemon ends: roll back what can be, leave services running. `completion` may be called at any later time.
    func shutDown(completion: @escaping Completion<Void>)
}
