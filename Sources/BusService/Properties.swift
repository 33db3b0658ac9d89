import BusContract

/// Which objects exist, and their properties.
extension BusService {
    func exists(_ object: BusObject) -> Bool {
        switch object {
        case .manager: true
        case .service(let unit): backend.service(unit) != nil
        case .migration(let id): snapshot?.id == id || backend.migration(id) != nil
        case .node(let name): backend.node(name) != nil
        }
    }

    func paths(below prefix: String) -> [String] {
        switch prefix {
        case BusName.services: backend.services().map { ObjectTree.path(ofService: $0.unit) }.sorted()
        case BusName.migrations: backend.migrations().map { ObjectTree.path(ofMigration: $0.id) }.sorted()
        case BusName.nodes: backend.nodes().map { ObjectTree.path(ofNode: $0.name) }.sorted()
        default: []
        }
    }

    func property(_ name: String, path: String, reply: Outgoing) throws {
        switch BusObject(path: path) {
        case .manager: try managerProperty(name, reply)
        case .service(let unit):
            guard let info = backend.service(unit) else { throw Self.noSuchService(unit) }
            try serviceProperty(name, info, reply)
        case .migration(let id):
            let current = snapshot?.id == id ? snapshot : backend.migration(id)
            guard let info = current else { throw Self.noSuchMigration(id) }
            try migrationProperty(name, info, reply)
        case .node(let node):
            guard let info = backend.node(node) else { throw Self.noSuchNode(node) }
            try nodeProperty(name, info, reply)
        case nil: throw BusFault(.internalError, "no object has the path \(path)")
        }
    }

    private func managerProperty(_ name: String, _ out: Outgoing) throws {
        switch name {
        case "Version": try out.string(version)
        case "NodeName": try out.string(backend.nodeName)
        case "Features":
            try out.array(of: "s", backend.features) { (text) throws(BusCallError) in try out.string(text) }
        default: throw Self.noSuchProperty(name)
        }
    }

    private func serviceProperty(_ name: String, _ info: ServiceInfo, _ out: Outgoing) throws {
        switch name {
        case "Unit": try out.string(info.unit)
        case "VirtualAddresses":
            try out.array(of: "s", info.virtualAddresses) { (text) throws(BusCallError) in try out.string(text) }
        case "Interface": try out.string(info.interface)
        case "DNSName": try out.string(info.dnsName)
        case "State": try out.string(info.state.rawValue)
        case "Node": try out.string(info.node)
        case "ConnectHookAttached": try out.boolean(info.connectHookAttached)
        case "Error": try out.string(info.error)
        default: throw Self.noSuchProperty(name)
        }
    }

    private func migrationProperty(_ name: String, _ info: MigrationInfo, _ out: Outgoing) throws {
        switch name {
        case "Id": try out.unsigned32(info.id.rawValue)
        case "Unit": try out.string(info.unit)
        case "Source": try out.string(info.source)
        case "Destination": try out.string(info.destination)
        case "Phase": try out.string(info.phase.rawValue)
        case "Round": try out.unsigned32(info.round)
        case "BytesTotal": try out.unsigned64(info.bytesTotal)
        case "BytesSent": try out.unsigned64(info.bytesSent)
        case "PagesDirty": try out.unsigned64(info.pagesDirty)
        case "FrozenUSec": try out.unsigned64(info.frozenMicroseconds)
        case "PredictedDowntimeUSec": try out.unsigned64(info.predictedDowntimeMicroseconds)
        case "DowntimeUSec": try out.unsigned64(info.downtimeMicroseconds)
        case "DowntimeParts":
            try out.array(of: "(st)", info.downtimeParts) { (part) throws(BusCallError) in
                try out.structure("st") { () throws(BusCallError) in
                    try out.string(part.name)
                    try out.unsigned64(part.microseconds)
                }
            }
        case "Result": try out.string(info.result)
        case "Error": try out.string(info.fault?.message ?? "")
        default: throw Self.noSuchProperty(name)
        }
    }

    private func nodeProperty(_ name: String, _ info: NodeInfo, _ out: Outgoing) throws {
        switch name {
        case "Name": try out.string(info.name)
        case "Address": try out.string(info.address)
        case "State": try out.string(info.state.rawValue)
        default: throw Self.noSuchProperty(name)
        }
    }

    static func noSuchProperty(_ name: String) -> BusFault {
        BusFault(.internalError, "the vtable has a property \(name) that the daemon does not know")
    }

    static func noSuchService(_ unit: String) -> BusFault {
        BusFault(.noSuchService, "unit \(unit) has no [X-Mobility] section or is not loaded")
    }

    static func noSuchNode(_ node: String) -> BusFault {
        BusFault(.noSuchNode, "node \(node) is not enrolled on this host")
    }
}
