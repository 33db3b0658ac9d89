import BusContract
import CBusService
import CSystemd
import Glibc

/// The objects on the bus: which vtable stands under which path.
enum ObjectTree {
    /// The interfaces of objects that come and go: prefix of the path, interface, vtable.
    private static var families: [(prefix: String, interface: String, vtable: OpaqueVtable)] {
        [
            (BusName.services, BusName.serviceInterface, mobility_service_vtable()),
            (BusName.migrations, BusName.migrationInterface, mobility_migration_vtable()),
            (BusName.nodes, BusName.nodeInterface, mobility_node_vtable()),
        ]
    }

    typealias OpaqueVtable = UnsafePointer<sd_bus_vtable>?

    /// Registers everything with `bus`. `userdata` is what the functions in Dispatch.swift are given.
    static func register(
        on bus: OpaquePointer, find: sd_bus_object_find_t, userdata: UnsafeMutableRawPointer
    ) throws(BusCallError) {
        try busCall(
            "sd_bus_add_object_vtable", on: BusName.root,
            sd_bus_add_object_vtable(
                bus, nil, BusName.root, BusName.managerInterface, mobility_manager_vtable(), userdata))
        for family in families {
            try busCall(
                "sd_bus_add_fallback_vtable", on: family.prefix,
                sd_bus_add_fallback_vtable(
                    bus, nil, family.prefix, family.interface, family.vtable, find, userdata))
        }
        try busCall("sd_bus_add_object_manager", on: BusName.root, sd_bus_add_object_manager(bus, nil, BusName.root))
    }

    /// Lets introspection list the objects that exist, so that `busctl tree` is complete.
    static func registerEnumerators(
        on bus: OpaquePointer, userdata: UnsafeMutableRawPointer
    ) throws(BusCallError) {
        for (prefix, enumerate) in busEnumerators {
            try busCall(
                "sd_bus_add_node_enumerator", on: prefix,
                sd_bus_add_node_enumerator(bus, nil, prefix, enumerate, userdata))
        }
    }

    /// The path of the object called `name` below `prefix`, sd_bus_path_encode(3).
    static func encode(_ prefix: String, _ name: String) -> String {
        var path: UnsafeMutablePointer<CChar>?
        guard sd_bus_path_encode(prefix, name, &path) >= 0, let path else { return prefix }
        defer { free(path) }
        return String(cString: path)
    }

    /// The name of the object at `path`; nil if it is not one directly below `prefix`.
    static func decode(_ path: String, _ prefix: String) -> String? {
        var name: UnsafeMutablePointer<CChar>?
        guard sd_bus_path_decode(path, prefix, &name) > 0, let name else { return nil }
        defer { free(name) }
        return String(cString: name)
    }

    static func path(ofService unit: String) -> String { encode(BusName.services, unit) }
    static func path(ofNode name: String) -> String { encode(BusName.nodes, name) }
    static func path(ofMigration id: MigrationID) -> String { BusName.migrationPath(id.rawValue) }
}

/// What an object path stands for.
enum BusObject: Equatable {
    case manager
    case service(String)
    case migration(MigrationID)
    case node(String)

    init?(path: String) {
        if path == BusName.root {
            self = .manager
        } else if let id = BusName.migrationID(atPath: path) {
            self = .migration(MigrationID(rawValue: id))
        } else if let unit = ObjectTree.decode(path, BusName.services) {
            self = .service(unit)
        } else if let name = ObjectTree.decode(path, BusName.nodes) {
            self = .node(name)
        } else {
            return nil
        }
    }
}
