/// The project's version, as the programs and the property `Version` show it.
public let mobilityVersion = "0.1.0"

/// The names under which mobilityd is found on the system bus. Both sides of the bus use them.
public enum BusName {
    /// The well-known name that the daemon owns.
    public static let service = "org.mobilityd1"
    /// The manager's object path, and the prefix of all others.
    public static let root = "/org/mobilityd1"
    /// The prefix of the objects of annotated units; the unit's name follows, escaped as systemd does.
    public static let services = "/org/mobilityd1/service"
    /// The prefix of the objects of migrations; the number in decimal follows.
    public static let migrations = "/org/mobilityd1/migration"
    /// The prefix of the objects of enrolled nodes; the node's name follows, escaped as systemd does.
    public static let nodes = "/org/mobilityd1/node"

    public static let managerInterface = "org.mobilityd1.Manager"
    public static let serviceInterface = "org.mobilityd1.Service"
    public static let migrationInterface = "org.mobilityd1.Migration"
    public static let nodeInterface = "org.mobilityd1.Node"

    /// The project's own interfaces, in the order in which they are documented.
    public static let interfaces = [managerInterface, serviceInterface, migrationInterface, nodeInterface]

    /// The object path of a migration.
    public static func migrationPath(_ id: UInt32) -> String { "\(migrations)/\(id)" }

    /// The number of the migration at `path`; nil for any other path, also one with leading zeros.
    public static func migrationID(atPath path: String) -> UInt32? {
        guard path.hasPrefix(migrations + "/") else { return nil }
        let digits = path.dropFirst(migrations.utf8.count + 1)
        guard let id = UInt32(digits), "\(id)" == digits else { return nil }
        return id
    }
}

/// Where a service is, as this node sees it: the property `State` of `org.mobilityd1.Service`.
public enum ServiceState: String, CaseIterable, Sendable {
    /// It belongs to this node, running or not.
    case local
    /// It is moving away from this node.
    case departing
    /// It is moving to this node.
    case arriving
    /// Another node runs it.
    case remote
    /// Its annotation is wrong or its address could not be kept; `Error` says why.
    case failed
}

/// How far a migration is: the property `Phase` of `org.mobilityd1.Migration`.
public enum MigrationPhase: String, CaseIterable, Sendable {
    case checking
    case preparing
    case precopy
    case frozen
    case committing
    case done
    case rolledBack = "rolled-back"
    case failed

    /// No other phase follows.
    public var isFinal: Bool {
        switch self {
        case .done, .rolledBack, .failed: true
        case .checking, .preparing, .precopy, .frozen, .committing: false
        }
    }
}

/// Whether a node can be reached: the property `State` of `org.mobilityd1.Node`.
public enum NodeState: String, CaseIterable, Sendable {
    /// This node itself.
    case own = "self"
    /// Its daemon answered over the authenticated channel.
    case online
    /// It did not answer.
    case offline
    /// Nobody has asked it yet.
    case unknown
}
