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
    /// The same, and it never heals: a doubt is ended by this word of an administrator, once the other host is off.
    case severForGood(Resolution)
    /// Packets of the channel are dropped, on their way to one side or to both, and that never heals.
    case stallForGood(to: Set<Side>)
    /// `systemctl VERB UNIT` on a host.
    case systemctl(String, Side)
    case daemonReload(Side)
    /// `systemctl VERB UNIT` at the source, and a reset of the channel that rolls the move back.
    case stopAndCut(String)
    /// The host loses its power, and gets it again a moment later.
    case crash(Side)
    /// The host loses its power and never gets it again.
    case crashForGood(Side)
    /// The n-th system call of the daemon that is held fails with this error once it goes on.
    case failingCall(Int, String)
    /// The destination's daemon can make no more processes and threads for 0.5 s, pids cgroup.
    case noPids
    /// The destination's daemon gets no more memory than this many KiB for 0.5 s, memory cgroup.
    case noMemory(Int)
    /// Nothing can be written to the file system of the destination's journal of ownership for 0.5 s.
    case noDisk

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
        case .severForGood(let word): "wire gone for good, resolve --\(word.rawValue)"
        case .stallForGood(let sides) where sides.count > 1: "channel stalled for good"
        case .stallForGood(let sides): "channel half-open for good: nothing reaches the \(sides.first?.rawValue ?? "")"
        case .systemctl(let verb, let side): "systemctl \(verb) at the \(side.rawValue)"
        case .daemonReload(let side): "daemon-reload at the \(side.rawValue)"
        case .stopAndCut(let verb): "systemctl \(verb) at the source, and channel reset"
        case .crash(let side): "power loss of the \(side.rawValue)"
        case .crashForGood(let side): "power loss of the \(side.rawValue) for good"
        case .failingCall(let number, let error): "\(error) in the \(Self.ordinal(number)) system call"
        case .noPids: "no processes left at the destination"
        case .noMemory(let size): "\(size) KiB of memory left at the destination"
        case .noDisk: "no space left for the destination's journal"
        }
    }

    /// Whether nothing but an administrator ends it.
    var isForGood: Bool {
        switch self {
        case .severForGood, .stallForGood, .crashForGood: true
        default: false
        }
    }

    /// What an administrator says if the move stays in doubt.
    var resolution: Resolution {
        if case .severForGood(let word) = self { word } else { .keep }
    }

    /// Whether the service may go on with one of its two processes.
    var leavesPart: Bool { self == .killArriving(main: false) || self == .killService(main: false) }

    private static func ordinal(_ number: Int) -> String {
        ["first", "second", "third"].indices.contains(number - 1)
            ? ["first", "second", "third"][number - 1] : "\(number)th"
    }

    /// What the daemon arms as it goes on, if anything.
    var plan: String {
        if case .failingCall(let number, let error) = self { "any:\(number):\(error)" } else { "" }
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
        case .severForGood(let word): "wire gone, \(word.rawValue)"
        case .stallForGood(let sides) where sides.count > 1: "stall"
        case .stallForGood(let sides): "half-open to \(sides.first?.rawValue ?? "")"
        case .systemctl(let verb, let side): "\(verb) \(side.rawValue)"
        case .daemonReload(let side): "daemon-reload \(side.rawValue)"
        case .stopAndCut(let verb): "\(verb) and reset"
        case .crash(let side), .crashForGood(let side): "power \(side.rawValue)"
        case .failingCall(let number, let error): "\(error) \(number)"
        case .noPids: "pids"
        case .noMemory(let size): "\(size) KiB"
        case .noDisk: "disk"
        }
    }

}

/// One fault at one point.
struct Cell: Hashable, Sendable {
    let point: Waypoint
    let fault: Fault

    var title: String { "\(point.rawValue): \(fault.title)" }

    /// Whether the service may have ended because somebody wanted it to, or killed it.
    var mayEndService: Bool {
        switch fault {
        case .killArriving: owner == .destination
        case .killService: true
        case .systemctl(let verb, _): verb != "reload"
        case .stopAndCut: true
        case .crash(let side): side == owner
        default: false
        }
    }

    /// Whether the unit may be inactive everywhere afterwards: who was killed is started again, Restart=on-failure.
    var mayLeaveNothing: Bool {
        switch fault {
        case .systemctl(let verb, _): verb == "stop" || verb == "kill"
        case .stopAndCut(let verb): verb == "stop"
        default: false
        }
    }

    /// Whose host has the service when the fault comes.
    private var owner: Side {
        let points = Waypoint.allCases
        let first: Waypoint = point.side == .source ? .sourceCommitSent : .destinationDecided
        guard let here = points.firstIndex(of: point), let turn = points.firstIndex(of: first) else { return .source }
        return here < turn ? .source : .destination
    }
}

/// How a cell ended.
enum Outcome: String, CaseIterable, Sendable {
    case moved
    case rolledBack = "rolled back"
    case inDoubtThenMoved = "in doubt, then moved"
    case inDoubtThenRolledBack = "in doubt, then rolled back"
    case inDoubtThenKept = "in doubt, then kept by resolve"
    case inDoubtThenGivenUp = "in doubt, then given up by resolve"
    case movedThenKept = "moved, then kept by resolve"
    /// Nothing but a return of that host brings it back.
    case downWithHost = "down with its host"
    /// By whoever stopped it; started again by the harness, and moved.
    case ended
    /// The same, and started again, by systemd or because that was asked for.
    case restarted
    /// It runs on without the process that was killed.
    case crippled
    case lost = "LOST"
    case twice = "TWICE"
    case reset = "RESET"
    case stuck = "STUCK"
    /// The move never came by the point.
    case missed = "NOT REACHED"

    var isBad: Bool { [.lost, .twice, .reset, .stuck, .missed].contains(self) }

    var meaning: String {
        switch self {
        case .moved: "it runs at the destination"
        case .rolledBack: "it runs at the source as if nothing had been tried"
        case .inDoubtThenMoved: "the source had to ask, and the destination has it"
        case .inDoubtThenRolledBack: "the source had to ask, and has it"
        case .inDoubtThenKept:
            "the source had no answer; the destination off, `resolve --keep` had the same process run on there"
        case .inDoubtThenGivenUp:
            "the source had no answer; `resolve --give-up` ended it there; it ran once when the destination came back"
        case .movedThenKept:
            "it runs at the destination, which had no confirmation; the source off, `resolve --keep` made it its own"
        case .downWithHost: "it ended with the host that had it, and ran once when that came back"
        case .ended: "stopped, as that was asked for; it ran once again, and moved, when it was started"
        case .restarted: "killed or stopped by the fault, and started again once"
        case .crippled: "it runs on without the child that was killed"
        case .lost: "no host runs it, or another process has taken its place"
        case .twice: "both hosts ran it at a time"
        case .reset: "a client was reset, or was served wrong data"
        case .stuck: "it does not come to rest, or cannot move any more"
        case .missed: "the move did not come by the point"
        }
    }

    /// As it stands in the matrix.
    var short: String {
        switch self {
        case .moved: "m"
        case .rolledBack: "r"
        case .inDoubtThenMoved: "d→m"
        case .inDoubtThenRolledBack: "d→r"
        case .inDoubtThenKept: "d→k"
        case .inDoubtThenGivenUp: "d→g"
        case .movedThenKept: "m→k"
        case .downWithHost: "off"
        case .ended: "e"
        case .crippled: "c"
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
