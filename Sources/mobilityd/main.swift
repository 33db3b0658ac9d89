import ArgumentParser
import BusContract
import BusService
import Glibc
import Journal
import Logging

struct Mobilityd: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "mobilityd",
        abstract: "Moves running services between hosts, with their connections.",
        discussion: "Started by systemd as mobilityd.service; its settings are in /etc/mobilityd/mobilityd.conf.",
        version: "mobilityd \(mobilityVersion)")

    @Option(help: ArgumentHelp("Print the description of a bus interface, or `list`, and end.", valueName: "interface"))
    var busIntrospect: String?

    @Option(help: "Least level that is logged: trace, debug, info, notice, warning, error, critical.")
    var logLevel: LogLevel = .info

    func run() throws {
        if let busIntrospect { return try Self.introspect(busIntrospect) }
        // Signals are the loop's business, in every thread: block them before there are others.
        EventLoop.blockSignals([SIGTERM, SIGINT, SIGHUP])
        signal(SIGPIPE, SIG_IGN)
        let level = logLevel.level
        LoggingSystem.bootstrap { JournalLogHandler(label: $0, level: level) }
        let log = Logger(label: "mobilityd")
        do {
            let status = try Daemon(log: log).run()
            if status != 0 { throw ExitCode(status) }
        } catch let error where !(error is ExitCode) {
            log.critical("\(error)")
            throw ExitCode((error as? BusFault)?.code.exitStatus ?? 1)
        }
    }

    private static func introspect(_ interface: String) throws {
        if interface == "list" { return print(BusName.interfaces.joined(separator: "\n")) }
        do {
            print(try Introspection.xml(of: interface), terminator: "")
        } catch let fault as BusFault {
            throw ValidationError(fault.message)
        }
    }
}

/// swift-log's level as an argument.
struct LogLevel: ExpressibleByArgument {
    let level: Logger.Level
    static let info = LogLevel(level: .info)

    init(level: Logger.Level) { self.level = level }

    init?(argument: String) {
        guard let level = Logger.Level(rawValue: argument) else { return nil }
        self.level = level
    }

    var defaultValueDescription: String { level.rawValue }
}

Mobilityd.main()
