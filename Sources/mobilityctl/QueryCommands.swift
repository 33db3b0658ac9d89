import ArgumentParser
import MobilityClient

struct ListCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "List the services that can move, or the migrations.")

    @Flag(help: "List migrations instead of services.")
    var migrations = false
    @OptionGroup var output: OutputOptions

    func run() throws {
        try output.withManager { manager in
            if migrations { try listMigrations(manager) } else { try listServices(manager) }
        }
    }

    private func listServices(_ manager: MobilityManager) throws {
        let services = try manager.services()
        if try output.printJSON(services) { return }
        var table = Table(headings: ["UNIT", "STATE", "NODE"], rows: services.map { [$0.unit, $0.state, $0.node] })
        table.color = { row, column in column == 1 ? Format.stateColor(services[row].state) : nil }
        table.print(legend: !output.noLegend)
        if !output.noLegend { print("\n\(services.count) services listed.") }
    }

    private func listMigrations(_ manager: MobilityManager) throws {
        let migrations = try manager.migrations()
        if try output.printJSON(migrations) { return }
        var table = Table(
            headings: ["ID", "UNIT", "DESTINATION", "PHASE"],
            rows: migrations.map { ["\($0.id)", $0.unit, $0.destination, $0.phase] })
        table.color = { row, column in column == 3 ? Format.stateColor(migrations[row].phase) : nil }
        table.print(legend: !output.noLegend)
        if !output.noLegend { print("\n\(migrations.count) migrations listed.") }
    }
}

struct StatusCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status", abstract: "Show one service, or this node.")

    @Argument(help: "The unit, for example web.service; without it, the node is shown.")
    var unit: String?
    @OptionGroup var output: OutputOptions

    private struct Overview: Encodable {
        let manager: ManagerStatus
        let services: [ServiceEntry]
        let migrations: [MigrationEntry]
    }

    private struct UnitStatus: Encodable {
        let service: ServiceStatus
        let migration: MigrationStatus?
    }

    func run() throws {
        try output.withManager { manager in
            if let unit { try show(unit, manager) } else { try showNode(manager) }
        }
    }

    private func showNode(_ manager: MobilityManager) throws {
        let overview = Overview(
            manager: try manager.status(), services: try manager.services(), migrations: try manager.migrations())
        if try output.printJSON(overview) { return }
        let failed = overview.services.filter { $0.state == "failed" }
        let running = overview.migrations.filter { !["done", "rolled-back", "failed"].contains($0.phase) }
        print("● node \(Terminal.paint(overview.manager.nodeName, .bold))")
        Self.field("Version", overview.manager.version)
        Self.field("Features", overview.manager.features.joined(separator: " "))
        Self.field("Services", "\(overview.services.count)")
        if !failed.isEmpty {
            Self.field("Failed", Terminal.paint(failed.map(\.unit).joined(separator: " "), .red))
        }
        for one in running {
            Self.field("Migration", "\(one.id): \(one.unit) → \(one.destination), \(one.phase)")
        }
    }

    private func show(_ unit: String, _ manager: MobilityManager) throws {
        let service = try manager.service(unit: unit)
        let latest = try manager.migrations().last { $0.unit == unit }
        let migration = try latest.map { try manager.migration($0.path) }
        if try output.printJSON(UnitStatus(service: service, migration: migration)) { return }
        let color = Format.stateColor(service.state)
        let state = color.map { Terminal.paint(service.state, $0) } ?? service.state
        print("\(color.map { Terminal.paint("●", $0) } ?? "●") \(service.unit)")
        Self.field("State", "\(state) (node \(service.node))")
        Self.field("Address", service.virtualAddresses.joined(separator: " "))
        Self.field("Interface", service.interface)
        Self.field("DNS name", service.dnsName)
        Self.field("Connect hook", service.connectHookAttached ? "attached" : "not attached")
        if !service.error.isEmpty { Self.field("Error", Terminal.paint(service.error, .red)) }
        if let migration {
            Self.field("Migration", "\(migration.id) to \(migration.destination): \(MigrateCommand.summary(migration))")
        }
    }

    /// One line, the names right-aligned as in systemctl(1); nothing for an empty value.
    private static func field(_ name: String, _ value: String) {
        if value.isEmpty { return }
        print(String(repeating: " ", count: max(0, 13 - name.count)) + "\(name): \(value)")
    }
}

struct CheckCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check", abstract: "Show what speaks for and against a move; exit status 1 if anything does.")

    @Argument(help: "The unit.") var unit: String
    @Argument(help: "The node it would move to.") var node: String
    @OptionGroup var output: OutputOptions

    func run() throws {
        try output.withManager { manager in
            let checks = try manager.check(unit: unit, node: node)
            let failed = checks.filter { !$0.passed }.count
            if try !output.printJSON(checks) { show(checks, failed) }
            if failed > 0 { throw ExitCode(1) }
        }
    }

    private func show(_ checks: [CheckEntry], _ failed: Int) {
        var table = Table(
            headings: ["", "CHECK", "SUBJECT", "WHY"],
            rows: checks.map { [$0.passed ? "✓" : "✗", $0.check, $0.subject, $0.why] })
        table.color = { row, column in column == 0 ? (checks[row].passed ? .green : .red) : nil }
        table.print(legend: !output.noLegend)
        if !output.noLegend {
            print(failed == 0 ? "\n\(unit) can move to \(node)." : "\n\(failed) of \(checks.count) checks failed.")
        }
    }
}

struct NodesCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "nodes", abstract: "List the nodes as the running daemon sees them.")

    @OptionGroup var output: OutputOptions

    func run() throws {
        try output.withManager { manager in
            let nodes = try manager.nodes()
            if try output.printJSON(nodes) { return }
            var table = Table(
                headings: ["NODE", "ADDRESS", "STATE"], rows: nodes.map { [$0.name, $0.address, $0.state] })
            table.color = { row, column in column == 2 ? Format.stateColor(nodes[row].state) : nil }
            table.print(legend: !output.noLegend)
            if !output.noLegend { print("\n\(nodes.count) nodes listed.") }
        }
    }
}
