import BusContract

/// A client of mobilityd on the system bus. Calls block; use one instance from one thread at a time.
///
/// ```swift
/// let manager = try MobilityManager()
/// let migration = try manager.migrate(unit: "web.service", to: "b")
/// try manager.wait(migration)
/// ```
public final class MobilityManager {
    private let connection: Connection

    /// Connects to the system bus, or to the one that `DBUS_SYSTEM_BUS_ADDRESS` names.
    /// - Parameters:
    ///   - address: another bus's address, D-Bus specification, "Server Addresses".
    ///   - allowsInteraction: polkit may ask a person for a password.
    public init(address: String? = nil, allowsInteraction: Bool = false) throws(MobilityError) {
        connection = try Connection(address: address)
        connection.allowsInteraction = allowsInteraction
    }

    // MARK: org.mobilityd1.Manager

    /// `MigrateUnit`: begins a move and gives the migration's object path.
    public func migrate(
        unit: String, to node: String, options: MigrateOptions = .init()
    ) throws(MobilityError) -> String {
        try path(
            manager("MigrateUnit", [.string(unit), .string(node), options.dictionary], waits: options.wait),
            "MigrateUnit")
    }

    /// `CheckUnit`: what speaks for and against a move.
    public func check(unit: String, node: String) throws(MobilityError) -> [CheckEntry] {
        try checks(manager("CheckUnit", [.string(unit), .string(node)], waits: true), "CheckUnit")
    }

    /// `DrainNode`: moves all services away from `node`; gives the migrations' paths.
    public func drain(node: String, options: MigrateOptions = .init()) throws(MobilityError) -> [String] {
        let reply = try manager("DrainNode", [.string(node), options.dictionary], waits: true)
        guard let paths = reply.first?.elements else { throw malformed("DrainNode", reply) }
        return paths.compactMap(\.text)
    }

    /// `ResolveUnit`: ends the doubt about a unit; the caller vouches for the other host's being off.
    /// - Parameter keep: the service runs on here; else it ends here.
    public func resolve(unit: String, keep: Bool, otherHostIsOff: Bool) throws(MobilityError) {
        _ = try manager(
            "ResolveUnit", [.string(unit), .string(keep ? "keep" : "give-up"), .boolean(otherHostIsOff)], waits: true)
    }

    /// `GetService`: a service's object path.
    public func servicePath(unit: String) throws(MobilityError) -> String {
        try path(manager("GetService", [.string(unit)]), "GetService")
    }

    /// `ListServices`.
    public func services() throws(MobilityError) -> [ServiceEntry] {
        try rows("ListServices") { fields in
            guard fields.count == 4, let unit = fields[0].text, let state = fields[1].text,
                let node = fields[2].text, let path = fields[3].text
            else { return nil }
            return ServiceEntry(unit: unit, state: state, node: node, path: path)
        }
    }

    /// `ListMigrations`: those that run and those that ended a while ago.
    public func migrations() throws(MobilityError) -> [MigrationEntry] {
        try rows("ListMigrations") { fields in
            guard fields.count == 5, let id = fields[0].number, let unit = fields[1].text,
                let destination = fields[2].text, let phase = fields[3].text, let path = fields[4].text
            else { return nil }
            return MigrationEntry(
                id: UInt32(clamping: id), unit: unit, destination: destination, phase: phase, path: path)
        }
    }

    /// `ListNodes`.
    public func nodes() throws(MobilityError) -> [NodeEntry] {
        try rows("ListNodes") { fields in
            guard fields.count == 3, let name = fields[0].text, let address = fields[1].text,
                let state = fields[2].text
            else { return nil }
            return NodeEntry(name: name, address: address, state: state)
        }
    }

    /// `MayStart`: whether a unit may start on this node. Root only.
    public func mayStart(unit: String) throws(MobilityError) -> StartAnswer {
        let reply = try manager("MayStart", [.string(unit)])
        guard reply.count == 2, let allowed = reply[0].flag, let why = reply[1].text else {
            throw malformed("MayStart", reply)
        }
        return StartAnswer(allowed: allowed, why: why)
    }

    /// `ClaimAddress`: puts the unit's addresses on this host. Root only.
    public func claimAddress(unit: String) throws(MobilityError) {
        _ = try manager("ClaimAddress", [.string(unit)], waits: true)
    }

    /// `ReleaseAddress`: the reverse; no error if there is nothing to release. Root only.
    public func releaseAddress(unit: String) throws(MobilityError) {
        _ = try manager("ReleaseAddress", [.string(unit)], waits: true)
    }

    /// `Reload`: the daemon reads its configuration, nodes and annotations again.
    public func reload() throws(MobilityError) { _ = try manager("Reload", [], waits: true) }

    /// The manager's properties.
    public func status() throws(MobilityError) -> ManagerStatus {
        let properties = try properties(BusName.root, BusName.managerInterface)
        return ManagerStatus(
            version: properties["Version"]?.text ?? "", nodeName: properties["NodeName"]?.text ?? "",
            features: properties["Features"]?.elements?.compactMap(\.text) ?? [])
    }

    // MARK: org.mobilityd1.Service

    /// All properties of a service.
    public func service(unit: String) throws(MobilityError) -> ServiceStatus {
        ServiceStatus(try properties(servicePath(unit: unit), BusName.serviceInterface))
    }

    /// `Migrate` of the service's own object.
    public func migrate(
        servicePath: String, to node: String, options: MigrateOptions = .init()
    ) throws(MobilityError) -> String {
        let arguments: [BusValue] = [.string(node), options.dictionary]
        return try path(
            connection.call(
                servicePath, BusName.serviceInterface, "Migrate", arguments,
                timeout: options.wait ? .never : .standard), "Migrate")
    }

    /// `Check` of the service's own object.
    public func check(servicePath: String, node: String) throws(MobilityError) -> [CheckEntry] {
        try checks(
            connection.call(servicePath, BusName.serviceInterface, "Check", [.string(node)], timeout: .never), "Check")
    }

    // MARK: org.mobilityd1.Migration

    /// The object path of the migration with this number.
    public static func migrationPath(_ id: UInt32) -> String { BusName.migrationPath(id) }

    /// All properties of a migration.
    public func migration(_ path: String) throws(MobilityError) -> MigrationStatus {
        do {
            return MigrationStatus(try properties(path, BusName.migrationInterface))
        } catch  where error.name == "org.freedesktop.DBus.Error.UnknownObject" {
            throw noSuchMigration(path)
        }
    }

    /// `Cancel`: asks it to roll back.
    public func cancel(_ path: String) throws(MobilityError) { try migrationCall(path, "Cancel", .standard) }

    /// `Wait`: returns when the migration is done, throws when it ended otherwise.
    public func wait(_ path: String) throws(MobilityError) { try migrationCall(path, "Wait", .never) }

    private func migrationCall(_ path: String, _ member: String, _ timeout: Connection.Timeout) throws(MobilityError) {
        do {
            _ = try connection.call(path, BusName.migrationInterface, member, timeout: timeout)
        } catch  where Self.unknownObject.contains(error.name) {
            throw noSuchMigration(path)
        }
    }

    private static let unknownObject: Set<String> = [
        "org.freedesktop.DBus.Error.UnknownObject", "org.freedesktop.DBus.Error.UnknownMethod",
    ]

    private func noSuchMigration(_ path: String) -> MobilityError {
        let id = path.split(separator: "/").last ?? ""
        return MobilityError(name: FaultCode.noSuchMigration.busName, message: "no migration \(id) is known")
    }

    // MARK: Signals

    /// Has the bus deliver mobilityd's signals from now on. Call before what causes them.
    public func subscribe() throws(MobilityError) { try connection.subscribe() }

    /// The signals that have come, after waiting for the first until `deadline`, nanoseconds of CLOCK_MONOTONIC.
    /// Empty if none came by then.
    public func waitForSignals(deadline: Int64) throws(MobilityError) -> [MobilitySignal] {
        while true {
            let received = try connection.signals(until: deadline)
            let known = received.compactMap { MobilitySignal($0) }
            if !known.isEmpty || received.isEmpty { return known }
        }
    }

    /// The signals that come within `milliseconds`; see `waitForSignals(deadline:)`.
    public func waitForSignals(milliseconds: Int64) throws(MobilityError) -> [MobilitySignal] {
        try waitForSignals(deadline: Connection.now() + milliseconds * 1_000_000)
    }

    // MARK: Answers

    private func manager(
        _ member: String, _ arguments: [BusValue] = [], waits: Bool = false
    ) throws(MobilityError) -> [BusValue] {
        try connection.call(
            BusName.root, BusName.managerInterface, member, arguments, timeout: waits ? .never : .standard)
    }

    private func properties(_ path: String, _ interface: String) throws(MobilityError) -> [String: BusValue] {
        let reply = try connection.call(path, "org.freedesktop.DBus.Properties", "GetAll", [.string(interface)])
        guard let entries = reply.first?.entries else { throw malformed("GetAll", reply) }
        return entries
    }

    private func path(_ reply: [BusValue], _ member: String) throws(MobilityError) -> String {
        guard case .objectPath(let path)? = reply.first else { throw malformed(member, reply) }
        return path
    }

    private func rows<Row>(
        _ member: String, _ make: ([BusValue]) -> Row?
    ) throws(MobilityError) -> [Row] {
        let reply = try manager(member)
        guard let elements = reply.first?.elements else { throw malformed(member, reply) }
        var rows: [Row] = []
        for element in elements {
            guard let row = element.elements.flatMap(make) else { throw malformed(member, reply) }
            rows.append(row)
        }
        return rows
    }

    private func checks(_ reply: [BusValue], _ member: String) throws(MobilityError) -> [CheckEntry] {
        guard let elements = reply.first?.elements else { throw malformed(member, reply) }
        var checks: [CheckEntry] = []
        for element in elements {
            guard let fields = element.elements, fields.count == 4, let check = fields[0].text,
                let subject = fields[1].text, let passed = fields[2].flag, let why = fields[3].text
            else { throw malformed(member, reply) }
            checks.append(CheckEntry(check: check, subject: subject, passed: passed, why: why))
        }
        return checks
    }

    private func malformed(_ member: String, _ reply: [BusValue]) -> MobilityError {
        .malformed(member, reply.map(\.signature).joined())
    }
}
