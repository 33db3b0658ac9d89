import BusContract
import CSystemd

/// What the backend reports becomes signals here.
extension BusService {
    /// The properties of a migration that are announced with each phase, and those that only its end settles.
    private static let finalProperties = ["Phase", "DowntimeUSec", "DowntimeParts", "Result", "Error"]
    private static let serviceProperties = [
        "VirtualAddresses", "Interface", "DNSName", "State", "Node", "ConnectHookAttached", "Error",
    ]

    func announce(_ event: BackendEvent) throws {
        switch event {
        case .migrationNew(let info):
            let path = ObjectTree.path(ofMigration: info.id)
            try withSnapshot(info) { try added(path) }
            try signal(BusName.root, BusName.managerInterface, "MigrationNew") { out in
                try out.unsigned32(info.id.rawValue)
                try out.path(path)
                try out.string(info.unit)
            }
        case .migrationPhase(let info):
            try withSnapshot(info) { try changed(info, ["Phase"]) }
        case .migrationFinished(let info):
            try withSnapshot(info) { try changed(info, Self.finalProperties) }
            try signal(BusName.root, BusName.managerInterface, "MigrationRemoved") { out in
                try out.unsigned32(info.id.rawValue)
                try out.path(ObjectTree.path(ofMigration: info.id))
                try out.string(info.unit)
                try out.string(info.result)
            }
        case .migrationForgotten(let id):
            try removed(ObjectTree.path(ofMigration: id), BusName.migrationInterface)
        case .logMessage(let id, let priority, let line):
            try signal(ObjectTree.path(ofMigration: id), BusName.migrationInterface, "LogMessage") { out in
                try out.unsigned32(priority)
                try out.string(line)
            }
        case .addressConflict(let unit, let address, let hardware):
            try signal(BusName.root, BusName.managerInterface, "AddressConflict") { out in
                try out.string(unit)
                try out.string(address)
                try out.string(hardware)
            }
        case .serviceAdded, .serviceChanged, .serviceRemoved, .nodeAdded, .nodeChanged, .nodeRemoved:
            try announceObject(event)
        }
    }

    private func announceObject(_ event: BackendEvent) throws {
        switch event {
        case .serviceAdded(let info): try added(ObjectTree.path(ofService: info.unit))
        case .serviceChanged(let info):
            try changed(ObjectTree.path(ofService: info.unit), BusName.serviceInterface, Self.serviceProperties)
        case .serviceRemoved(let unit): try removed(ObjectTree.path(ofService: unit), BusName.serviceInterface)
        case .nodeAdded(let info): try added(ObjectTree.path(ofNode: info.name))
        case .nodeChanged(let info):
            try changed(ObjectTree.path(ofNode: info.name), BusName.nodeInterface, ["Address", "State"])
        case .nodeRemoved(let name): try removed(ObjectTree.path(ofNode: name), BusName.nodeInterface)
        default: break
        }
    }

    private func withSnapshot(_ info: MigrationInfo, _ body: () throws -> Void) rethrows {
        snapshot = info
        defer { snapshot = nil }
        try body()
    }

    private func signal(
        _ path: String, _ interface: String, _ member: String, _ write: (Outgoing) throws -> Void
    ) throws {
        var raw: OpaquePointer?
        try busCall(
            "sd_bus_message_new_signal", on: member, sd_bus_message_new_signal(bus, &raw, path, interface, member))
        defer { sd_bus_message_unref(raw) }
        guard let raw else { return }
        try write(Outgoing(raw))
        try busCall("sd_bus_send", on: member, sd_bus_send(bus, raw, nil))
    }

    private func changed(_ info: MigrationInfo, _ properties: [String]) throws {
        try changed(ObjectTree.path(ofMigration: info.id), BusName.migrationInterface, properties)
    }

    private func changed(_ path: String, _ interface: String, _ properties: [String]) throws {
        guard let object = BusObject(path: path), exists(object) else { return }
        let result = withStringVector(properties) {
            sd_bus_emit_properties_changed_strv(bus, path, interface, $0)
        }
        try busCall("sd_bus_emit_properties_changed", on: path, result)
    }

    private func added(_ path: String) throws {
        guard let object = BusObject(path: path), exists(object) else { return }
        try busCall("sd_bus_emit_object_added", on: path, sd_bus_emit_object_added(bus, path))
    }

    /// The object is gone already, so only its interface is named; sd_bus_emit_object_removed(3) would look for it.
    private func removed(_ path: String, _ interface: String) throws {
        let result = withStringVector([interface]) { sd_bus_emit_interfaces_removed_strv(bus, path, $0) }
        try busCall("sd_bus_emit_interfaces_removed", on: path, result)
    }
}
