import Glibc
import Kernel
import Lab

/// How a fault is put in and, where it lasts, taken out again.
struct Injection {
    let fault: Fault
    let bench: Bench
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
        case .pause, .failingCall: return (true, nil)
        case .noPids, .noMemory: return (try limit(), nil)
        case .noDisk: try fill()
        case .killDaemon(let side): return (Self.kill(standing.view(side).daemon), nil)
        case .killHolder: return (Self.kill(standing.destination.holder), nil)
        case .killArriving(let main): return (Self.kill(member(of: standing.destination, main)), nil)
        case .killService(let main): return (Self.kill(member(of: standing.source, main)), nil)
        case .cut: try reset()
        case .stall(let sides), .stallForGood(let sides):
            for side in sides { try drop(on: standing.view(side)) }
        case .sever, .severForGood:
            // Each end by itself: it must not depend on packets that are dropped.
            for view in both { try drop(on: view) }
            try reset()
        case .systemctl(let verb, let side):
            return (true, try standing.view(side).host.spawn("systemctl", verb, Bench.unit))
        case .crash(let side), .crashForGood(let side): try bench.lab.crash(standing.view(side).host.name)
        case .stopAndCut(let verb):
            let command = try standing.source.host.spawn("systemctl", verb, Bench.unit)
            poll(nil, 0, 150)
            try reset()
            return (true, command)
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
        case .crash: .milliseconds(200)
        case .noPids, .noMemory, .noDisk: .milliseconds(500)
        default: .zero
        }
    }

    /// Takes it out.
    func heal() throws {
        switch fault {
        case .stall, .sever: try reconnect()
        case .severForGood, .stallForGood, .crashForGood:
            for view in both where !view.host.isUp { try bench.lab.boot(view.host.name) }
            try reconnect()
        case .crash(let side):
            let host = standing.view(side).host
            if !host.isUp { try bench.lab.boot(host.name) }
        case .noPids, .noMemory: unlimit()
        case .noDisk:
            try standing.destination.host.run("rm", "-f", "/var/lib/mobilityd/fill")
        default: break
        }
    }

    /// The channel's packets are dropped no longer.
    private func reconnect() throws {
        for view in both { try view.host.run("nft", "delete", "table", "inet", "faults", allowFailure: true) }
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
    private func drop(on view: HostView) throws {
        try view.host.run(
            "nft",
            """
            table inet faults {
                chain input {
                    type filter hook input priority -300
                    tcp dport 7413 drop
                    tcp sport 7413 drop
                }
            }
            """)
    }

    /// Ends the channel's connections at both ends, `ss -K`, each of which tells the other by a reset.
    private func reset() throws {
        for view in both {
            try view.host.run("ss", "-K", "-t", "state", "established", "( dport = :7413 or sport = :7413 )")
        }
    }
}
