/// What can go wrong, as one table: each code has a name on the bus, an exit status of mobilityctl and a remedy.
public enum FaultCode: String, CaseIterable, Sendable {
    case noSuchService = "NoSuchService"
    case noSuchNode = "NoSuchNode"
    case noSuchMigration = "NoSuchMigration"
    case invalidOption = "InvalidOption"
    case invalidArgument = "InvalidArgument"
    case notAuthorized = "NotAuthorized"
    case badAnnotation = "BadAnnotation"
    case notLocal = "NotLocal"
    case alreadyMigrating = "AlreadyMigrating"
    case nodeUnreachable = "NodeUnreachable"
    case checkFailed = "CheckFailed"
    case connectionsWouldBeLost = "ConnectionsWouldBeLost"
    case addressInUse = "AddressInUse"
    case addressUnavailable = "AddressUnavailable"
    case rolledBack = "RolledBack"
    case cancelled = "Cancelled"
    case migrationFailed = "MigrationFailed"
    case tooLate = "TooLate"
    case unsupported = "Unsupported"
    case shuttingDown = "ShuttingDown"
    case internalError = "InternalError"

    /// The error's name on the bus, for example `org.mobilityd1.NoSuchService`.
    public var busName: String { "\(BusName.service).\(rawValue)" }

    /// The code that goes by `busName`; nil for another party's error.
    public init?(busName: String) {
        let prefix = BusName.service + "."
        guard busName.hasPrefix(prefix) else { return nil }
        self.init(rawValue: String(busName.dropFirst(prefix.utf8.count)))
    }

    /// The exit status of mobilityctl. Numbers from 64 on follow sysexits.h(3head), 4 is what systemctl(1) uses.
    public var exitStatus: Int32 { row.exit }

    /// What a person can do about it; one sentence.
    public var remedy: String { row.remedy }

    private var row: (exit: Int32, remedy: String) {
        switch self {
        case .noSuchService: (4, "Give the unit an [X-Mobility] section and run `systemctl daemon-reload`.")
        case .noSuchNode: (5, "Enrol it with `mobilityctl node add` and run `systemctl reload mobilityd`.")
        case .noSuchMigration: (6, "`mobilityctl list --migrations` shows those that are remembered.")
        case .invalidOption: (64, "Use one of the options named in the message.")
        case .invalidArgument: (64, "Correct the argument named in the message.")
        case .notAuthorized: (77, "Run as root, or allow the action in polkit.")
        case .badAnnotation: (7, "Correct the line named in the message and run `systemctl daemon-reload`.")
        case .notLocal: (8, "Run the command on the node where the service is; `mobilityctl list` names it.")
        case .alreadyMigrating: (9, "Wait with `mobilityctl wait` or stop it with `mobilityctl cancel`.")
        case .nodeUnreachable: (10, "See that mobilityd runs there and that its address and certificate are right.")
        case .checkFailed: (1, "`mobilityctl check` lists every check and why it failed.")
        case .connectionsWouldBeLost: (11, "Repeat with --allow-loss if those connections may break.")
        case .addressInUse: (12, "Find the host that answers for the address and take it off there.")
        case .addressUnavailable: (13, "See that an interface of this host is in the address's subnet.")
        case .rolledBack: (14, "The service runs on at the source; the message says what stood in the way.")
        case .cancelled: (15, "The service runs on at the source.")
        case .migrationFailed: (16, "See `journalctl -u mobilityd` on both nodes.")
        case .tooLate: (17, "The destination already decides; wait for the result.")
        case .unsupported: (69, "The message names what this host lacks.")
        case .shuttingDown: (75, "Try again when the daemon is back.")
        case .internalError: (70, "See `journalctl -u mobilityd`.")
        }
    }
}

/// A failure with its code and the particulars, as it travels over the bus.
public struct BusFault: Error, Equatable, Sendable, CustomStringConvertible {
    public let code: FaultCode
    /// What, on which object, and why; one line.
    public let message: String

    public init(_ code: FaultCode, _ message: String) {
        self.code = code
        self.message = message
    }

    public var description: String { message }
}
