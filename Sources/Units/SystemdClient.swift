import Kernel

/// The service manager over the system bus, org.freedesktop.systemd1(5).
///
/// Every call blocks. An instance is one connection and belongs to the thread that made it.
public final class SystemdClient {
    private static let destination = "org.freedesktop.systemd1"
    private static let manager = "/org/freedesktop/systemd1"

    private let bus: Bus
    private var subscribed = false
    /// Nanoseconds to wait for a reply; a reload of the manager has more.
    private let timeout: Int64 = 25_000_000_000
    private let reloadTimeout: Int64 = 90_000_000_000

    /// Connects to the system bus.
    public init() throws(SystemdError) { bus = try Bus() }

    /// A job that was queued and how it ended.
    public struct JobOutcome: Equatable, Sendable {
        /// The job's object path.
        public let job: String
        public let result: JobResult
    }

    /// A queued job whose end has not been awaited.
    public struct PendingJob: Equatable, Sendable {
        public let unit: String
        /// The job's object path.
        public let path: String
    }

    /// The unit's properties; the manager loads the unit when it has not yet.
    public func unitProperties(_ unit: String) throws(SystemdError) -> UnitStatus {
        let path = try call("LoadUnit", on: unit, unit).first?.string ?? ""
        let general = try properties(path, "org.freedesktop.systemd1.Unit", unit)
        let service =
            unit.hasSuffix(".service") ? try properties(path, "org.freedesktop.systemd1.Service", unit) : [:]
        return UnitStatus(unit: general, service: service)
    }

    /// How many descriptors the manager keeps for the service now, sd_pid_notify_with_fds(3).
    public func storedDescriptors(_ unit: String) throws(SystemdError) -> UInt64 {
        let path = try call("LoadUnit", on: unit, unit).first?.string ?? ""
        let reply = try bus.call(
            Self.destination, path, "org.freedesktop.DBus.Properties", "Get", on: unit, timeout: timeout
        ) { message in
            let code = message.append("org.freedesktop.systemd1.Service")
            return code < 0 ? code : message.append("NFileDescriptorStore")
        }
        return try reply.values().first?.unsigned ?? 0
    }

    /// Queues a start, `systemctl start --no-block`.
    ///
    /// - Parameter mode: `replace`, `fail`, `isolate`, `ignore-dependencies`, `ignore-requirements`.
    public func queueStart(_ unit: String, mode: String = "replace") throws(SystemdError) -> PendingJob {
        try queue("StartUnit", unit, mode)
    }

    /// Queues a stop, `systemctl stop --no-block`.
    public func queueStop(_ unit: String, mode: String = "replace") throws(SystemdError) -> PendingJob {
        try queue("StopUnit", unit, mode)
    }

    /// Starts a unit and waits for the job to end, at most until `deadline` (CLOCK_MONOTONIC, nanoseconds).
    public func startUnit(
        _ unit: String, mode: String = "replace", deadline: Int64
    ) throws(SystemdError) -> JobOutcome {
        try wait(for: queueStart(unit, mode: mode), deadline: deadline)
    }

    /// Stops a unit and waits for the job to end, at most until `deadline` (CLOCK_MONOTONIC, nanoseconds).
    public func stopUnit(
        _ unit: String, mode: String = "replace", deadline: Int64
    ) throws(SystemdError) -> JobOutcome {
        try wait(for: queueStop(unit, mode: mode), deadline: deadline)
    }

    /// Waits for the end of a job queued on this connection.
    public func wait(for job: PendingJob, deadline: Int64) throws(SystemdError) -> JobOutcome {
        while let message = try bus.nextMessage(until: deadline) {
            guard message.member == "JobRemoved" else { continue }
            let fields = try message.values()
            guard fields.count == 4, fields[1].string == job.path else { continue }
            return JobOutcome(job: job.path, result: JobResult(fields[3].string))
        }
        throw SystemdError(
            call: "JobRemoved", object: job.unit, name: "org.freedesktop.DBus.Error.Timeout",
            message: "job \(job.path) had not ended by its deadline")
    }

    /// `systemctl daemon-reload`; returns once the manager has read all units again.
    public func reload() throws(SystemdError) {
        _ = try bus.call(
            Self.destination, Self.manager, "org.freedesktop.systemd1.Manager", "Reload", on: "",
            timeout: reloadTimeout)
    }

    /// Keeps the manager from forgetting the unit, and how it ended, for as long as this connection lives.
    public func keepLoaded(_ unit: String) throws(SystemdError) { _ = try call("RefUnit", on: unit, unit) }

    /// `systemctl reset-failed UNIT`.
    public func resetFailed(_ unit: String) throws(SystemdError) { _ = try call("ResetFailedUnit", on: unit, unit) }

    /// `systemctl kill --signal=SIGNAL UNIT`: sends `signal` to all processes of the unit.
    public func killUnit(_ unit: String, signal: Int32) throws(SystemdError) {
        _ = try bus.call(
            Self.destination, Self.manager, "org.freedesktop.systemd1.Manager", "KillUnit", on: unit, timeout: timeout
        ) { message in
            var code = message.append(unit)
            if code >= 0 { code = message.append("all") }
            return code < 0 ? code : message.append(signal)
        }
    }

    /// The loaded units
    /// whose names match the glob `pattern`, `systemctl list-units PATTERN`.
    public func listUnits(_ pattern: String) throws(SystemdError) -> [UnitListEntry] {
        let reply = try bus.call(
            Self.destination, Self.manager, "org.freedesktop.systemd1.Manager", "ListUnitsByPatterns", on: pattern,
            timeout: timeout
        ) { message in
            let code = message.append([String]())
            return code < 0 ? code : message.append([pattern])
        }
        return try (reply.values().first?.items ?? []).compactMap { row in
            let fields = row.items
            guard fields.count >= 7 else { return nil }
            return UnitListEntry(
                name: fields[0].string, description: fields[1].string, loadState: fields[2].string,
                activeState: fields[3].string, subState: fields[4].string, path: fields[6].string)
        }
    }

    private func call(_ member: String, on object: String, _ texts: String...) throws(SystemdError) -> [BusValue] {
        try bus.call(
            Self.destination, Self.manager, "org.freedesktop.systemd1.Manager", member, on: object, timeout: timeout
        ) { message in
            var code: Int32 = 0
            for text in texts where code >= 0 { code = message.append(text) }
            return code
        }.values()
    }

    /// The signal is asked for before the call, so that a job that ends at once is not missed.
    private func queue(_ member: String, _ unit: String, _ mode: String) throws(SystemdError) -> PendingJob {
        if !subscribed {
            try bus.match(
                "type='signal',sender='\(Self.destination)',path='\(Self.manager)',"
                    + "interface='org.freedesktop.systemd1.Manager',member='JobRemoved'")
            _ = try call("Subscribe", on: "")
            subscribed = true
        }
        return PendingJob(unit: unit, path: try call(member, on: unit, unit, mode).first?.string ?? "")
    }

    private func properties(
        _ path: String, _ interface: String, _ unit: String
    ) throws(SystemdError) -> [String: BusValue] {
        let reply = try bus.call(
            Self.destination, path, "org.freedesktop.DBus.Properties", "GetAll", on: unit, timeout: timeout
        ) { $0.append(interface) }
        var result: [String: BusValue] = [:]
        for entry in try reply.values().first?.items ?? [] {
            if let key = entry.items.first?.string, let value = entry.items.last { result[key] = value }
        }
        return result
    }
}
