import BusContract

/// A row of `ListServices`.
public struct ServiceEntry: Equatable, Sendable, Codable {
    public let unit: String
    /// One of `ServiceState`, as text: a newer daemon may know more.
    public let state: String
    /// The node that runs it.
    public let node: String
    /// Its object path.
    public let path: String
}

/// A row of `ListMigrations`.
public struct MigrationEntry: Equatable, Sendable, Codable {
    public let id: UInt32
    public let unit: String
    public let destination: String
    /// One of `MigrationPhase`.
    public let phase: String
    public let path: String
}

/// A row of `ListNodes`.
public struct NodeEntry: Equatable, Sendable, Codable {
    public let name: String
    /// Address and port.
    public let address: String
    /// One of `NodeState`.
    public let state: String
}

/// A row of `CheckUnit`.
public struct CheckEntry: Equatable, Sendable, Codable {
    public let check: String
    public let subject: String
    public let passed: Bool
    public let why: String
}

/// The answer of `MayStart`.
public struct StartAnswer: Equatable, Sendable {
    public let allowed: Bool
    /// Empty if allowed.
    public let why: String
}

/// All properties of `org.mobilityd1.Service`.
public struct ServiceStatus: Equatable, Sendable, Codable {
    public let unit: String
    public let virtualAddresses: [String]
    public let interface: String
    public let dnsName: String
    public let state: String
    public let node: String
    public let connectHookAttached: Bool
    /// Why the state is `failed`; else empty.
    public let error: String

    init(_ properties: [String: BusValue]) {
        unit = properties["Unit"]?.text ?? ""
        virtualAddresses = properties["VirtualAddresses"]?.elements?.compactMap(\.text) ?? []
        interface = properties["Interface"]?.text ?? ""
        dnsName = properties["DNSName"]?.text ?? ""
        state = properties["State"]?.text ?? ""
        node = properties["Node"]?.text ?? ""
        connectHookAttached = properties["ConnectHookAttached"]?.flag ?? false
        error = properties["Error"]?.text ?? ""
    }
}

/// All properties of `org.mobilityd1.Migration`. Times are in microseconds.
public struct MigrationStatus: Equatable, Sendable, Codable {
    public let id: UInt32
    public let unit: String
    public let source: String
    public let destination: String
    /// One of `MigrationPhase`.
    public let phase: String
    public let round: UInt32
    public let bytesTotal: UInt64
    public let bytesSent: UInt64
    public let pagesDirty: UInt64
    public let frozenMicroseconds: UInt64
    public let predictedDowntimeMicroseconds: UInt64
    public let downtimeMicroseconds: UInt64
    public let downtimeParts: [Part]
    /// Empty while it runs; else `done`, `rolled-back`, `cancelled` or `failed`.
    public let result: String
    public let error: String

    /// One part of the downtime.
    public struct Part: Equatable, Sendable, Codable {
        public let name: String
        public let microseconds: UInt64
    }

    /// It is over.
    public var isFinished: Bool { !result.isEmpty }

    init(_ properties: [String: BusValue]) {
        func number(_ name: String) -> UInt64 { properties[name]?.number ?? 0 }
        func text(_ name: String) -> String { properties[name]?.text ?? "" }
        id = UInt32(clamping: number("Id"))
        unit = text("Unit")
        source = text("Source")
        destination = text("Destination")
        phase = text("Phase")
        round = UInt32(clamping: number("Round"))
        bytesTotal = number("BytesTotal")
        bytesSent = number("BytesSent")
        pagesDirty = number("PagesDirty")
        frozenMicroseconds = number("FrozenUSec")
        predictedDowntimeMicroseconds = number("PredictedDowntimeUSec")
        downtimeMicroseconds = number("DowntimeUSec")
        downtimeParts = (properties["DowntimeParts"]?.elements ?? []).compactMap { part in
            guard let fields = part.elements, fields.count == 2, let name = fields[0].text,
                let microseconds = fields[1].number
            else { return nil }
            return Part(name: name, microseconds: microseconds)
        }
        result = text("Result")
        error = text("Error")
    }
}

/// All properties of `org.mobilityd1.Manager`.
public struct ManagerStatus: Equatable, Sendable, Codable {
    public let version: String
    public let nodeName: String
    public let features: [String]

    public init(version: String, nodeName: String, features: [String]) {
        self.version = version
        self.nodeName = nodeName
        self.features = features
    }
}

/// A signal of mobilityd.
public enum MobilitySignal: Equatable, Sendable {
    case migrationNew(id: UInt32, path: String, unit: String)
    case migrationRemoved(id: UInt32, path: String, unit: String, result: String)
    /// `path` is the migration's.
    case logMessage(path: String, priority: UInt32, line: String)
    case propertiesChanged(path: String, interface: String, [String: BusValue])
    /// Another host claims an address of a unit that runs on this node; `hardware` is the other's hardware address.
    case addressConflict(unit: String, address: String, hardware: String)

    init?(_ signal: Connection.Signal) {
        let body = signal.body
        switch (signal.interface, signal.member) {
        case (BusName.managerInterface, "MigrationNew"):
            guard body.count == 3, let id = body[0].number, let path = body[1].text, let unit = body[2].text
            else { return nil }
            self = .migrationNew(id: UInt32(clamping: id), path: path, unit: unit)
        case (BusName.managerInterface, "MigrationRemoved"):
            guard body.count == 4, let id = body[0].number, let path = body[1].text, let unit = body[2].text,
                let result = body[3].text
            else { return nil }
            self = .migrationRemoved(id: UInt32(clamping: id), path: path, unit: unit, result: result)
        case (BusName.managerInterface, "AddressConflict"):
            guard body.count == 3, let unit = body[0].text, let address = body[1].text, let hardware = body[2].text
            else { return nil }
            self = .addressConflict(unit: unit, address: address, hardware: hardware)
        case (BusName.migrationInterface, "LogMessage"):
            guard body.count == 2, let priority = body[0].number, let line = body[1].text else { return nil }
            self = .logMessage(path: signal.path, priority: UInt32(clamping: priority), line: line)
        case ("org.freedesktop.DBus.Properties", "PropertiesChanged"):
            guard body.count == 3, let interface = body[0].text, let changed = body[1].entries else { return nil }
            self = .propertiesChanged(path: signal.path, interface: interface, changed)
        default: return nil
        }
    }
}

/// The options of `MigrateUnit`, `Migrate` and `DrainNode`.
public struct MigrateOptions: Equatable, Sendable {
    /// Return only when the migration is over.
    public var wait = false
    /// Go on with pre-copy until the downtime is predicted to be below this, microseconds;
    /// nil for the daemon's default.
    public var downtimeTargetMicroseconds: UInt64?
    /// Go on although connections that are not on a virtual address will break.
    public var allowLoss = false
    /// Everything up to the freeze, then roll back.
    public var dryRun = false
    /// Only for draining: the node that takes the services; nil for any.
    public var destination: String?
    /// Keys that this library does not know; the daemon refuses those that it does not know either.
    public var additional: [String: BusValue] = [:]

    public init() {}

    var dictionary: BusValue {
        var entries = additional
        if wait { entries["wait"] = .boolean(true) }
        if let downtimeTargetMicroseconds { entries["downtime-target"] = .uint64(downtimeTargetMicroseconds) }
        if allowLoss { entries["allow-loss"] = .boolean(true) }
        if dryRun { entries["dry-run"] = .boolean(true) }
        if let destination { entries["destination"] = .string(destination) }
        return .dictionary(entries)
    }
}
