import Glibc
import Kernel
import Lab

/// How a fault is put in and, where it lasts, taken out again.
struct Injection {
    let fault: Fault
    let standing: Bench.Standing

    /// How long what was done needs until the hosts have noticed it, before the daemon goes on.
    var pause: Duration {
        switch fault {
        case .pause: .milliseconds(300)
        case .killHolder, .killArriving, .killService: .milliseconds(40)
        case .systemctl(let verb, _): verb == "reload" ? .milliseconds(40) : .milliseconds(120)
        default: .zero
        }
    }

    /// Puts it in.
    ///
    /// - Returns: a command that is still under way; false in `applied` when there was nothing to do it to.
    func apply() throws -> (applied: Bool, command: LabProcess?) {
        switch fault {
        case .pause: return (true, nil)
        case .killDaemon(let side): return (Self.kill(standing.view(side).daemon), nil)
        case .killHolder: return (Self.kill(standing.destination.holder), nil)
        case .killArriving(let main): return (Self.kill(member(of: standing.destination, main)), nil)
        case .killService(let main): return (Self.kill(member(of: standing.source, main)), nil)
        case .cut: try reset()
        case .stall(let sides):
            for side in sides { try drop(on: standing.view(side), hooks: ["input"]) }
        case .sever:
            // Each end by itself: it must not depend on packets that are dropped.
            for view in both { try drop(on: view, hooks: ["input"]) }
            try reset()
        case .systemctl(let verb, let side):
            return (true, try standing.view(side).host.spawn("systemctl", verb, Bench.unit))
        case .daemonReload(let side):
            return (true, try standing.view(side).host.spawn("systemctl", "daemon-reload"))
        }
        return (true, nil)
    }

    /// How long it lasts once the daemon has gone on.
    var duration: Duration {
        switch fault {
        case .stall: .seconds(3)
        case .sever: .milliseconds(1200)
        default: .zero
        }
    }

    /// Takes it out.
    func heal() throws {
        switch fault {
        case .stall, .sever:
            for view in both { try view.host.run("nft", "delete", "table", "inet", "faults", allowFailure: true) }
        default: break
        }
    }

    private var both: [HostView] { [standing.source, standing.destination] }

    /// The process that is, or is to become, the main one or its child.
    private func member(of view: HostView, _ main: Bool) -> Int32? {
        guard let wanted = main ? standing.pids.min() : standing.pids.max() else { return nil }
        return view.members.first { HostView.innerPid($0) == wanted }
    }

    private static func kill(_ pid: Int32?) -> Bool {
        guard let pid else { return false }
        return Glibc.kill(pid, SIGKILL) == 0
    }

    /// The channel's packets that come to that host go nowhere.
    private func drop(on view: HostView, hooks: [String]) throws {
        let rules = hooks.map { hook in
            "chain \(hook) { type filter hook \(hook) priority -300; tcp dport 7413 drop; tcp sport 7413 drop; }"
        }
        try view.host.run("nft", "table inet faults { \(rules.joined(separator: " ")) }")
    }

    /// Ends the channel's connections at both ends, `ss -K`, each of which tells the other by a reset.
    private func reset() throws {
        for view in both {
            try view.host.run("ss", "-K", "-t", "state", "established", "( dport = :7413 or sport = :7413 )")
        }
    }
}
