import Migration

/// A side of the move that a fault is put into; which host it is changes from move to move.
enum Side: String, CaseIterable, Hashable, Sendable {
    case source, destination
    var other: Side { self == .source ? .destination : .source }
}

/// What goes wrong while the daemon is held at a point.
enum Fault: Hashable, Sendable {
    /// Nothing but the holding itself.
    case pause
    case killDaemon(Side)
    /// `mobility-arrive`.
    case killHolder
    /// At the destination: an embryo, later the process of the service that it has become.
    case killArriving(main: Bool)
    /// At the source: the service's own.
    case killService(main: Bool)
    /// Both ends of the channel are reset; a new connection can be made at once.
    case cut
    /// Packets of the channel are dropped for three seconds, on their way to one side or to both.
    case stall(to: Set<Side>)
    /// The channel is reset and no other can be made until the harness has looked.
    case sever
    /// `systemctl VERB UNIT` on a host.
    case systemctl(String, Side)
    case daemonReload(Side)

    var title: String {
        switch self {
        case .pause: "held for 0.3 s"
        case .killDaemon(let side): "SIGKILL of the \(side.rawValue)'s mobilityd"
        case .killHolder: "SIGKILL of mobility-arrive"
        case .killArriving(let main): "SIGKILL of the \(main ? "main process" : "child") at the destination"
        case .killService(let main): "SIGKILL of the \(main ? "main process" : "child") at the source"
        case .cut: "channel reset"
        case .stall(let sides) where sides.count > 1: "channel stalled for 3 s"
        case .stall(let sides): "channel half-open for 3 s: nothing reaches the \(sides.first?.rawValue ?? "")"
        case .sever: "wire gone until looked at"
        case .systemctl(let verb, let side): "systemctl \(verb) at the \(side.rawValue)"
        case .daemonReload(let side): "daemon-reload at the \(side.rawValue)"
        }
    }

    /// The heading of its column.
    var short: String {
        switch self {
        case .pause: "held"
        case .killDaemon(let side): "daemon \(side.rawValue)"
        case .killHolder: "arrive"
        case .killArriving(let main): main ? "main dest." : "child dest."
        case .killService(let main): main ? "main source" : "child source"
        case .cut: "reset"
        case .stall(let sides) where sides.count > 1: "stall"
        case .stall(let sides): "half-open to \(sides.first?.rawValue ?? "")"
        case .sever: "wire gone"
        case .systemctl(let verb, let side): "\(verb) \(side.rawValue)"
        case .daemonReload(let side): "daemon-reload \(side.rawValue)"
        }
    }

    /// Whether the service may have ended because somebody wanted it to, or killed it.
    var mayEndService: Bool {
        switch self {
        case .killArriving, .killService: true
        case .systemctl(let verb, _): verb != "reload"
        default: false
        }
    }

    /// Whether the unit may be inactive everywhere afterwards.
    var mayLeaveNothing: Bool {
        switch self {
        case .systemctl(let verb, _): verb == "stop" || verb == "kill"
        default: mayEndService
        }
    }
}

/// One fault at one point.
struct Cell: Hashable, Sendable {
    let point: Waypoint
    let fault: Fault

    /// The side whose daemon is held.
    var side: Side { point.rawValue.hasPrefix("source.") ? .source : .destination }
    var title: String { "\(point.rawValue): \(fault.title)" }
}

/// How a cell ended.
enum Outcome: String, CaseIterable, Sendable {
    case moved
    case rolledBack = "rolled back"
    case inDoubtThenMoved = "in doubt, then moved"
    case inDoubtThenRolledBack = "in doubt, then rolled back"
    /// By whoever killed or stopped it; not started again.
    case ended
    /// The same, and started again, by systemd or because that was asked for.
    case restarted
    case lost = "LOST"
    case twice = "TWICE"
    case reset = "RESET"
    case stuck = "STUCK"
    /// The move never came by the point.
    case missed = "NOT REACHED"

    var isBad: Bool { [.lost, .twice, .reset, .stuck, .missed].contains(self) }

    /// As it stands in the matrix.
    var short: String {
        switch self {
        case .moved: "m"
        case .rolledBack: "r"
        case .inDoubtThenMoved: "d→m"
        case .inDoubtThenRolledBack: "d→r"
        case .ended: "e"
        case .restarted: "e→s"
        default: "**\(rawValue)**"
        }
    }
}

struct CellResult: Sendable {
    let cell: Cell
    let outcome: Outcome
    /// What was found, when it is not as it should be.
    let detail: String
    let milliseconds: Int
}
