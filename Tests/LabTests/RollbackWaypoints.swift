import Lab

extension Lab {
    private static let pauses = "/run/pause"

    /// Has a move stand still at a waypoint of a host's daemon (`Sources/Migration/Waypoint.swift`) while `body` runs:
    /// the move goes on when that returns.
    ///
    /// - Parameter options: of `mobilityctl migrate`.
    /// - Returns: that command, still running.
    @discardableResult
    func holdMove(
        of unit: String, from source: String, to destination: String, options: [String] = [], at waypoint: String,
        on host: String, while body: (LabProcess) throws -> Void
    ) throws -> LabProcess {
        let member = try self[host]
        try member.run("mkdir", "-p", Self.pauses, "/run/systemd/system/mobilityd.service.d")
        try member.write(
            "/run/systemd/system/mobilityd.service.d/pause.conf",
            "[Service]\nEnvironment=MOBILITYD_PAUSE=\(Self.pauses)\n")
        try member.run("systemctl", "daemon-reload")
        try member.run("systemctl", "restart", "mobilityd")
        try member.write("\(Self.pauses)/\(waypoint).arm", "30000")
        let move = try self[source].spawn(["mobilityctl", "migrate"] + options + [unit, destination])
        try waitUntil("the move at \(waypoint)") {
            try member.run("test", "-e", "\(Self.pauses)/\(waypoint).here", allowFailure: true).succeeded
        }
        try body(move)
        _ = try member.run("rm", "\(Self.pauses)/\(waypoint).here", allowFailure: true)
        return move
    }
}

extension RollbackLab {
    /// The same with the lab's own service.
    @discardableResult
    func holdMove(
        of unit: String = RollbackLab.unit, from source: String, to destination: String, options: [String] = [],
        at waypoint: String, on host: String, while body: (LabProcess) throws -> Void
    ) throws -> LabProcess {
        try lab.holdMove(
            of: unit, from: source, to: destination, options: options, at: waypoint, on: host, while: body)
    }
}
