import Glibc
import Kernel
import Lab
import Migration

/// A lab with the self-checking service on one of two hosts, and clients that are connected to it.
final class Bench {
    static let unit = "counter.service"
    static let program = "counter"
    static let address = "10.10.10.11"
    /// Where the daemons look for points to be held at, inside each host.
    static let pauses = "/run/faults"

    let lab: Lab
    let hosts: [HostView]
    let clients: Clients
    let client: LabHost

    init(name: String) throws {
        let lab = try Lab.up(hosts: ["a", "b"], clients: ["c"], name: name, product: .built)
        self.lab = lab
        let program = try lab.compile(Self.program)
        hosts = [HostView(host: try lab["a"], unit: Self.unit), HostView(host: try lab["b"], unit: Self.unit)]
        client = try lab["c"]
        clients = Clients(
            host: client, program: try lab.clientProgram("counter-client"), address: Self.address)
        for view in hosts {
            try view.host.write(
                "/etc/systemd/system/mobilityd.service.d/faults.conf",
                """
                [Unit]
                StartLimitIntervalSec=0
                [Service]
                Environment=\(Waypoint.variable)=\(Self.pauses)
                RestartSec=100ms

                """)
            try view.host.write(
                "/etc/systemd/system/\(Self.unit)",
                """
                [Unit]
                StartLimitIntervalSec=0
                [Service]
                ExecStart=\(program) \(Self.address) 7000
                ExecReload=/bin/true
                Restart=on-failure
                RestartSec=100ms
                [X-Mobility]
                VirtualAddress=\(Self.address)/24

                """)
            // A host that comes back from a loss of power starts it, if it is there to run.
            try view.host.run("systemctl", "add-wants", "lab.target", Self.unit)
            // Small enough to be filled.
            try view.host.run("mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", "/var/lib/mobilityd")
            try view.host.run("systemctl", "daemon-reload")
            try view.host.run("systemctl", "restart", "mobilityd")
        }
    }

    deinit { down() }

    func down() {
        clients.end()
        lab.down()
    }

    // MARK: - What is there

    func copies() -> [Copy] { hosts.flatMap { $0.copies(of: Self.program) } }

    func view(_ name: String) throws -> HostView {
        guard let view = hosts.first(where: { $0.host.name == name }) else { throw LabError("no host \(name)") }
        return view
    }

    /// What the daemon of a host says of the unit: local, departing, arriving, remote, failed.
    private func state(_ view: HostView) throws -> String {
        let path = "/org/mobilityd1/service/counter_2eservice"
        let answer = try view.host.run(
            "busctl", "get-property", "org.mobilityd1", path, "org.mobilityd1.Service", "State")
        return answer.trimmed.filter(\.isLetter)
    }

    /// The daemons of the hosts that are up serve and no drop-in of a move is left there.
    var isQuiet: Bool { hosts.allSatisfy { !$0.host.isUp || $0.isListening && !$0.isMoving } }

    /// Waits until nothing of a move is under way and the service is on one host, or on none.
    ///
    /// - Parameter processes: how many it must have at least.
    func settle(_ timeout: Duration, processes: Int = 2, mayEnd: Bool = true) throws {
        try waitUntil("end of everything that was under way", timeout: timeout, interval: .milliseconds(10)) {
            let copies = copies()
            guard isQuiet else { throw LabError(describe(copies)) }
            if copies.isEmpty {
                guard mayEnd else { throw LabError("not started again: " + describe(copies)) }
                return try areUnitsAtRest()
            }
            guard copies.count >= processes, Set(copies.map(\.host)).count == 1, !copies.contains(where: \.isFrozen)
            else {
                throw LabError(describe(copies))
            }
            return true
        }
    }

    /// Nothing will start by itself any more.
    private func areUnitsAtRest() throws -> Bool {
        try hosts.allSatisfy { view in
            ["inactive", "failed"].contains(try view.host.property("ActiveState", of: Self.unit))
        }
    }

    func describe(_ copies: [Copy]) -> String {
        hosts.map { view in
            let own = copies.filter { $0.host == view.host.name }
            if !view.host.isUp { return "\(view.host.name): off" }
            let words = own.map { "\($0.innerPid)\($0.isFrozen ? " frozen" : "")" }.joined(separator: ", ")
            return "\(view.host.name): processes [\(words)], record `\(view.record)`"
                + (view.isListening ? "" : ", no daemon") + (view.isMoving ? ", a move's drop-in" : "")
        }.joined(separator: "; ")
    }

    // MARK: - A service to begin with

    /// The service as it is at the start of a cell.
    struct Standing {
        let source: HostView
        let destination: HostView
        let copies: [Copy]
        var pids: Set<Int32> { Set(copies.map(\.innerPid)) }
        var random: [UInt8] { copies.first?.random ?? [] }
        func view(_ side: Side) -> HostView { side == .source ? source : destination }
    }

    /// Has the service run on one host with all its clients, whatever was before.
    func stand() throws -> Standing {
        try settle(.seconds(15))
        if copies().isEmpty { try startSomewhere() }
        try makeKnown()
        try clients.ensure()
        try settle(.seconds(5))
        try waitUntil("end of the last move", timeout: .seconds(5), interval: .milliseconds(20)) {
            try hosts.allSatisfy { ["slocal", "sremote"].contains(try state($0)) }
        }
        let copies = copies()
        guard let name = copies.first?.host, let source = hosts.first(where: { $0.host.name == name }),
            let destination = hosts.first(where: { $0.host.name != name })
        else { throw LabError("the service does not run: \(describe(copies))") }
        return Standing(source: source, destination: destination, copies: copies)
    }

    /// Has the service move once: a host that has never had it knows nothing of it, and starts it at its boot.
    private func makeKnown() throws {
        guard hosts.allSatisfy(\.record.isEmpty), let here = copies().first?.host,
            let there = hosts.first(where: { $0.host.name != here })
        else { return }
        try view(here).host.run("mobilityctl", "migrate", Self.unit, there.host.name)
        try settle(.seconds(10))
    }

    /// Starts the unit on the host that may run it.
    private func startSomewhere() throws {
        for view in hosts.sorted(by: { !$0.record.hasPrefix("departed") && $1.record.hasPrefix("departed") }) {
            try view.host.run("systemctl", "reset-failed", Self.unit, allowFailure: true)
            try view.host.run("systemctl", "start", Self.unit, allowFailure: true)
            if (try? waitUntil("start", timeout: .seconds(1)) { view.copies(of: Self.program).count == 2 }) != nil {
                return
            }
        }
        let logs = try hosts.map { "\($0.host.name): \(try $0.host.journal(Self.unit, lines: 4))" }
        throw LabError("the service starts nowhere: \(describe(copies())); \(logs.joined(separator: "; "))")
    }

    // MARK: - Points

    private func file(_ point: Waypoint, _ suffix: String, on view: HostView) -> String {
        "\(view.root)\(Self.pauses)/\(point.rawValue).\(suffix)"
    }

    /// The daemon of that host is held the next time it passes the point, for so long at most.
    ///
    /// - Parameter plan: the call that fails once it goes on, as `FaultSeam.Plan` reads it.
    func arm(_ point: Waypoint, on view: HostView, milliseconds: Int, plan: String = "") throws {
        try Files.makeDirectories(view.root + Self.pauses)
        try FileDescriptor.open(file(point, "arm", on: view), O_WRONLY | O_CREAT | O_TRUNC, mode: 0o600)
            .writeAll([UInt8]("\(milliseconds) \(plan)\n".utf8))
    }

    /// Every plan of a fault that is still armed is so no longer once a move has passed by.
    func disarm() throws {
        for view in hosts {
            for point in [Waypoint.sourceChecking, .destinationOffer] { try arm(point, on: view, milliseconds: 0) }
        }
    }

    func isHeld(at point: Waypoint, on view: HostView) -> Bool { Files.exists(file(point, "here", on: view)) }

    /// Lets it go on, or forgets that it was to be held.
    func release(_ point: Waypoint, on view: HostView) {
        unlink(file(point, "arm", on: view))
        unlink(file(point, "here", on: view))
    }
}
