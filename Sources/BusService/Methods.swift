import BusContract

/// The methods of the four interfaces.
extension BusService {
    func dispatch(_ message: Incoming) throws -> Answer {
        switch BusObject(path: message.path) {
        case .manager: try managerMethod(message)
        case .service(let unit): try serviceMethod(message, unit: unit)
        case .migration(let id): try migrationMethod(message, id)
        case .node, nil: throw Self.noSuchMethod(message)
        }
    }

    private func managerMethod(_ message: Incoming) throws -> Answer {
        switch message.member {
        case "MigrateUnit":
            let unit = try message.string()
            return try migrate(message, unit: unit)
        case "CheckUnit":
            let unit = try message.string()
            return try check(message, unit: unit)
        case "DrainNode": return try drain(message)
        case "ResolveUnit": return try resolve(message)
        case "GetService":
            let unit = try message.string()
            guard backend.service(unit) != nil else { throw Self.noSuchService(unit) }
            return .reply { try $0.path(ObjectTree.path(ofService: unit)) }
        case "ListServices": return listServices()
        case "ListMigrations": return listMigrations()
        case "ListNodes": return listNodes()
        case "Reload":
            return try authorized(.reload, message, details: ["verb": "reload"]) { [self] in
                backend.reload(completion: reply(to: message) { (_: Outgoing, _: Void) in })
                return .later
            }
        default: return try unitMethod(message)
        }
    }

    /// What the units' own drop-ins call; sd-bus lets only root through.
    private func unitMethod(_ message: Incoming) throws -> Answer {
        guard try isRoot(message) else {
            throw BusFault(.notAuthorized, "\(message.member) is for root only")
        }
        let unit = try message.string()
        switch message.member {
        case "MayStart":
            backend.mayStart(
                unit: unit,
                completion: reply(to: message) { (out, permission: StartPermission) in
                    try out.boolean(permission.allowed)
                    try out.string(permission.why)
                })
        case "ClaimAddress":
            backend.claimAddress(unit: unit, completion: reply(to: message) { (_: Outgoing, _: Void) in })
        case "ReleaseAddress":
            backend.releaseAddress(unit: unit, completion: reply(to: message) { (_: Outgoing, _: Void) in })
        default: throw Self.noSuchMethod(message)
        }
        return .later
    }

    private func serviceMethod(_ message: Incoming, unit: String) throws -> Answer {
        switch message.member {
        case "Migrate": try migrate(message, unit: unit)
        case "Check": try check(message, unit: unit)
        default: throw Self.noSuchMethod(message)
        }
    }

    private func migrationMethod(_ message: Incoming, _ id: MigrationID) throws -> Answer {
        guard let info = backend.migration(id) else { throw Self.noSuchMigration(id) }
        switch message.member {
        case "Cancel":
            let details = ["unit": info.unit, "verb": "cancel", "node": info.destination]
            return try authorized(.migrate, message, details: details) { [self] in
                try backend.cancel(id)
                return .empty
            }
        case "Wait": return try wait(for: id, message: message) { _ in }
        default: throw Self.noSuchMethod(message)
        }
    }

    private func migrate(_ message: Incoming, unit: String) throws -> Answer {
        let node = try message.string()
        let options = try MigrationOptions.read(message, keys: MigrationOptions.migrateKeys)
        guard backend.service(unit) != nil else { throw Self.noSuchService(unit) }
        let details = ["unit": unit, "verb": "migrate", "node": node]
        return try authorized(.migrate, message, details: details) { [self] in
            let id = try backend.migrate(unit: unit, to: node, options: options)
            log.notice("migration of \(unit) to \(node) begins", metadata: ["unit": "\(unit)", "migration": "\(id)"])
            let write: (Outgoing) throws -> Void = { try $0.path(ObjectTree.path(ofMigration: id)) }
            return options.wait ? try wait(for: id, message: message, write) : .reply(write)
        }
    }

    private func check(_ message: Incoming, unit: String) throws -> Answer {
        let node = try message.string()
        guard backend.service(unit) != nil else { throw Self.noSuchService(unit) }
        let details = ["unit": unit, "verb": "check", "node": node]
        return try authorized(.check, message, details: details) { [self] in
            let completion = reply(to: message) { (out, results: [CheckResult]) in
                try out.array(of: "(ssbs)", results) { (result) throws(BusCallError) in
                    try out.structure("ssbs") { () throws(BusCallError) in
                        try out.string(result.check)
                        try out.string(result.subject)
                        try out.boolean(result.passed)
                        try out.string(result.why)
                    }
                }
            }
            backend.check(unit: unit, node: node, completion: completion)
            return .later
        }
    }

    private func resolve(_ message: Incoming) throws -> Answer {
        let unit = try message.string()
        let resolution = try message.string()
        let isOff = try message.boolean()
        guard ["keep", "give-up"].contains(resolution) else {
            throw BusFault(.invalidArgument, "resolution \"\(resolution)\" is neither keep nor give-up")
        }
        guard backend.service(unit) != nil else { throw Self.noSuchService(unit) }
        return try authorized(.resolve, message, details: ["unit": unit, "verb": resolution]) { [self] in
            backend.resolve(
                unit: unit, keep: resolution == "keep", otherHostIsOff: isOff,
                completion: reply(to: message) { (_: Outgoing, _: Void) in })
            return .later
        }
    }

    private func drain(_ message: Incoming) throws -> Answer {
        let node = try message.string()
        let options = try MigrationOptions.read(message, keys: MigrationOptions.drainKeys)
        return try authorized(.manageNodes, message, details: ["verb": "drain", "node": node]) { [self] in
            backend.drain(
                node: node, options: options,
                completion: completion { [weak self] result in
                    self?.answer(message) {
                        let ids = try result.get()
                        return try self?.afterDrain(message, ids, wait: options.wait) ?? .empty
                    }
                })
            return .later
        }
    }

    /// With `wait` the call is answered when all are over, with the error of the first in order that failed.
    private func afterDrain(_ message: Incoming, _ ids: [MigrationID], wait: Bool) throws -> Answer {
        let write: (Outgoing) throws -> Void = { out in
            try out.array(of: "o", ids) { (id) throws(BusCallError) in try out.path(ObjectTree.path(ofMigration: id)) }
        }
        guard wait, !ids.isEmpty else { return .reply(write) }
        return try waitForAll(ids[...], message, write)
    }

    private func waitForAll(
        _ ids: ArraySlice<MigrationID>, _ message: Incoming, _ write: @escaping (Outgoing) throws -> Void
    ) throws -> Answer {
        var rest = ids
        while let id = rest.popFirst() {
            guard let info = backend.migration(id) else { throw Self.noSuchMigration(id) }
            if info.phase.isFinal {
                _ = try Self.outcome(of: info, write)
                continue
            }
            let remaining = rest
            whenOver(id, message) { [weak self] info in
                _ = try Self.outcome(of: info, write)
                return try self?.waitForAll(remaining, message, write) ?? .empty
            }
            return .later
        }
        return .reply(write)
    }

    private func listServices() -> Answer {
        let services = backend.services().sorted { $0.unit < $1.unit }
        return .reply { out in
            try out.array(of: "(ssso)", services) { (info) throws(BusCallError) in
                try out.structure("ssso") { () throws(BusCallError) in
                    try out.string(info.unit)
                    try out.string(info.state.rawValue)
                    try out.string(info.node)
                    try out.path(ObjectTree.path(ofService: info.unit))
                }
            }
        }
    }

    private func listMigrations() -> Answer {
        let migrations = backend.migrations().sorted { $0.id < $1.id }
        return .reply { out in
            try out.array(of: "(ussso)", migrations) { (info) throws(BusCallError) in
                try out.structure("ussso") { () throws(BusCallError) in
                    try out.unsigned32(info.id.rawValue)
                    try out.string(info.unit)
                    try out.string(info.destination)
                    try out.string(info.phase.rawValue)
                    try out.path(ObjectTree.path(ofMigration: info.id))
                }
            }
        }
    }

    private func listNodes() -> Answer {
        let nodes = backend.nodes().sorted { $0.name < $1.name }
        return .reply { out in
            try out.array(of: "(sss)", nodes) { (info) throws(BusCallError) in
                try out.structure("sss") { () throws(BusCallError) in
                    try out.string(info.name)
                    try out.string(info.address)
                    try out.string(info.state.rawValue)
                }
            }
        }
    }

    static func noSuchMethod(_ message: Incoming) -> BusFault {
        BusFault(.internalError, "the vtable has a method \(message.member) that the daemon does not know")
    }
}
