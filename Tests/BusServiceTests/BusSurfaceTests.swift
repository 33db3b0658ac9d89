import BusContract
import Glibc
import Kernel
import Logging
import MobilityClient
import Testing

@testable import BusService

/// The service on a private bus, with a backend of the test's own.
final class Fixture {
    let bus: PrivateBus
    let backend = InMemoryBackend()
    private let thread: BusThread

    init() throws {
        bus = try PrivateBus()
        let backend = backend
        thread = try BusThread { stopBox, ready in
            do {
                let loop = try EventLoop()
                let log = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
                let service = try BusService(backend: backend, version: "9.9", loop: loop, log: log)
                try loop.onMail(stopBox) { loop.exit($0) }
                try service.requestName()
                ready.post("")
                _ = try withExtendedLifetime(service) { try loop.run() }
            } catch {
                ready.post("\(error)")
            }
        }
    }

    deinit { thread.stop() }

    func busctl(_ arguments: String, asNobody: Bool = false) throws -> CommandResult {
        let user = asNobody ? "setpriv --reuid=65534 --regid=65534 --clear-groups " : ""
        return try shell("\(user)busctl --system --no-pager \(arguments)")
    }

    func manager(_ call: String, asNobody: Bool = false) throws -> CommandResult {
        try busctl("call org.mobilityd1 /org/mobilityd1 org.mobilityd1.Manager \(call)", asNobody: asNobody)
    }
}

extension BusTests {
    @Test func treeShowsEveryObject() throws {
        let fixture = try Fixture()
        _ = try MobilityManager().migrate(unit: "web.service", to: "node-b")
        let tree = try fixture.busctl("tree --list org.mobilityd1").output.split(separator: "\n").map(String.init)
        for path in [
            "/org/mobilityd1", "/org/mobilityd1/service/web_2eservice", "/org/mobilityd1/service/bad_401_2eservice",
            "/org/mobilityd1/migration/1", "/org/mobilityd1/node/a", "/org/mobilityd1/node/node_2db",
        ] {
            #expect(tree.contains(path))
        }
    }

    @Test func introspectionNamesMembersAndFlags() throws {
        let fixture = try Fixture()
        let manager = try fixture.busctl("introspect org.mobilityd1 /org/mobilityd1").output
        for member in [
            "MigrateUnit", "CheckUnit", "DrainNode", "MayStart", "MigrationRemoved", "NodeName", "Reload",
            "AddressConflict",
        ] {
            #expect(manager.contains("." + member))
        }
        #expect(manager.contains("org.freedesktop.DBus.ObjectManager"))
        let service = try fixture.busctl("introspect org.mobilityd1 /org/mobilityd1/service/web_2eservice").output
        #expect(service.contains("emits-change"))
        #expect(service.contains("10.10.10.11/24"))
    }

    @Test func introspectionLeavesNothingOpen() throws {
        _ = try Introspection.xml(of: BusName.nodeInterface)
        let before = try Files.list("/proc/self/fd").count
        for interface in BusName.interfaces { _ = try Introspection.xml(of: interface) }
        #expect(try Files.list("/proc/self/fd").count == before)
    }

    @Test func installedXMLEqualsTheDaemonsOwn() throws {
        for interface in BusName.interfaces {
            let installed = try shell("cat \(repositoryRoot)/dbus/\(interface).xml")
            #expect(installed.status == 0)
            #expect(Self.skeleton(installed.output) == Self.skeleton(try Introspection.xml(of: interface)))
        }
        #expect(throws: BusFault.self) { try Introspection.xml(of: "org.mobilityd1.Nothing") }
    }

    /// The elements of the first interface, without comments and indentation.
    private static func skeleton(_ xml: String) -> [String] {
        var text = xml
        while let start = text.firstRange(of: "<!--"), let end = text[start.upperBound...].firstRange(of: "-->") {
            text.removeSubrange(start.lowerBound..<end.upperBound)
        }
        let lines = text.split(separator: "\n").map { String($0.drop { $0 == " " }) }.filter { !$0.isEmpty }
        guard let first = lines.firstIndex(where: { $0.hasPrefix("<interface") }),
            let last = lines.firstIndex(of: "</interface>")
        else { return [] }
        return Array(lines[first...last])
    }

    @Test func busctlReadsListsAndProperties() throws {
        let fixture = try Fixture()
        #expect(
            try fixture.manager("ListNodes").output
                == "a(sss) 2 \"a\" \"10.10.10.2:7413\" \"self\" \"node-b\" \"10.10.10.3:7413\" \"online\"\n")
        #expect(
            try fixture.manager("GetService s web.service").output
                == "o \"/org/mobilityd1/service/web_2eservice\"\n")
        let version = try fixture.busctl(
            "get-property org.mobilityd1 /org/mobilityd1 org.mobilityd1.Manager Version NodeName Features")
        #expect(version.output == "s \"9.9\"\ns \"a\"\nas 2 \"ipv6\" \"connect-hook\"\n")
        let objects = try fixture.busctl(
            "call org.mobilityd1 /org/mobilityd1 org.freedesktop.DBus.ObjectManager GetManagedObjects")
        #expect(objects.output.contains("/org/mobilityd1/node/node_2db"))
    }

    @Test func errorsHaveTheirNames() throws {
        let fixture = try Fixture()
        let manager = try MobilityManager()
        #expect(Self.name { try manager.servicePath(unit: "none.service") } == "org.mobilityd1.NoSuchService")
        #expect(Self.name { try manager.migrate(unit: "web.service", to: "z") } == "org.mobilityd1.NoSuchNode")
        #expect(Self.name { try manager.wait("/org/mobilityd1/migration/7") } == "org.mobilityd1.NoSuchMigration")
        #expect(Self.name { try manager.migration("/org/mobilityd1/migration/7") } == "org.mobilityd1.NoSuchMigration")
        var options = MigrateOptions()
        options.additional = ["speed": .string("high")]
        let unknown = #expect(throws: MobilityError.self) {
            try manager.migrate(unit: "web.service", to: "node-b", options: options)
        }
        #expect(unknown?.code == .invalidOption)
        #expect(unknown?.message.contains("'speed'") == true)
        #expect(unknown?.message.contains("allow-loss (b)") == true)
        options.additional = ["wait": .string("yes")]
        #expect(
            Self.name { try manager.migrate(unit: "web.service", to: "node-b", options: options) }
                == "org.mobilityd1.InvalidOption")
        #expect(fixture.backend.migrations().isEmpty)
    }

    private static func name<Value>(_ body: () throws -> Value) -> String? {
        do {
            _ = try body()
            return nil
        } catch {
            return (error as? MobilityError)?.name
        }
    }

    @Test func aMigrationIsAnnouncedStepByStep() throws {
        let fixture = try Fixture()
        let manager = try MobilityManager()
        try manager.subscribe()
        let path = try manager.migrate(unit: "web.service", to: "node-b")
        let id = MigrationID(rawValue: 1)
        fixture.backend.say(id, "checks passed")
        // Faster than the bus thread: each announcement still carries the state of its own moment.
        fixture.backend.finish(id)
        var trace: [String] = []
        var isOver = false
        while !isOver {
            let signals = try manager.waitForSignals(milliseconds: 10_000)
            try #require(!signals.isEmpty)
            for signal in signals {
                switch signal {
                case .migrationNew(let id, _, let unit): trace.append("new \(id) \(unit)")
                case .logMessage(_, _, let line): trace.append("log \(line)")
                case .propertiesChanged(_, _, let changed): trace.append(changed["Phase"]?.text ?? "?")
                case .migrationRemoved(let id, let removed, _, let result):
                    #expect(removed == path)
                    trace.append("removed \(id) \(result)")
                    isOver = true
                case .addressConflict(_, let address, _): trace.append("conflict \(address)")
                }
            }
        }
        #expect(
            trace == [
                "new 1 web.service", "log checks passed", "precopy", "frozen", "committing", "done", "removed 1 done",
            ])
        let status = try manager.migration(path)
        #expect(status.downtimeMicroseconds == 12_345)
        #expect(status.downtimeParts.map(\.name) == ["capture", "transfer"])
        #expect(status.round == 2)
        try manager.wait(path)
        fixture.backend.forget(id)
        #expect(throws: MobilityError.self) { try manager.wait(path) }
    }

    @Test func busctlMonitorSeesTheSignals() throws {
        let fixture = try Fixture()
        let monitor = try Child(["busctl", "--system", "monitor", "org.mobilityd1"], outputs: [1, 2])
        while let line = monitor.readLine(), !line.contains("Monitoring bus message stream") {}
        _ = try MobilityManager().migrate(unit: "web.service", to: "node-b")
        fixture.backend.finish(MigrationID(rawValue: 1))
        var members: [String] = []
        while members.last != "MigrationRemoved", let line = monitor.readLine() {
            if let name = line.firstRange(of: "Member=") { members.append(String(line[name.upperBound...])) }
        }
        #expect(members.contains("InterfacesAdded"))
        #expect(members.contains("MigrationNew"))
        #expect(members.filter { $0 == "PropertiesChanged" }.count == 4)
    }

    @Test func waitAnswersAtTheEnd() throws {
        let fixture = try Fixture()
        let path = try MobilityManager().migrate(unit: "web.service", to: "node-b")
        let backend = fixture.backend
        // busctl waits while another client cancels; its own error is the outcome.
        let both = try shell(
            "busctl --system call --timeout=20 org.mobilityd1 \(path) org.mobilityd1.Migration Wait & "
                + "busctl --system call org.mobilityd1 \(path) org.mobilityd1.Migration Cancel; wait $!"
        )
        #expect(both.status == 1)
        #expect(both.output.contains("cancelled by request"))
        #expect(backend.migration(MigrationID(rawValue: 1))?.result == "cancelled")

        backend.state.withLock { $0.finishesAtOnce = true }
        var options = MigrateOptions()
        options.wait = true
        options.downtimeTargetMicroseconds = 20_000
        #expect(
            try MobilityManager().migrate(unit: "web.service", to: "node-b", options: options)
                == "/org/mobilityd1/migration/2")
        let seen = backend.state.withLock { $0.options.last }
        #expect(seen?.downtimeTargetMicroseconds == 20_000)
    }

    @Test func slowAnswersDoNotBlockTheOthers() throws {
        let fixture = try Fixture()
        fixture.backend.state.withLock { $0.holdsCompletions = true }
        let check = try Child(
            ["busctl", "--system", "call", "org.mobilityd1", "/org/mobilityd1", "org.mobilityd1.Manager"]
                + ["CheckUnit", "ss", "web.service", "node-b"], outputs: [1])
        while fixture.backend.state.withLock({ $0.held.isEmpty }) { try _ = MobilityManager().nodes() }
        #expect(try MobilityManager().services().count == 2)
        fixture.backend.releaseCompletions()
        let text = check.readLine()
        #expect(check.wait() == 0)
        #expect(text == "a(ssbs) 2 \"pids\" \"4711\" true \"\" \"files\" \"/srv/data\" false \"differs on node-b\"")
    }

    @Test func theClientReadsEverything() throws {
        let fixture = try Fixture()
        let manager = try MobilityManager()
        #expect(
            try manager.status() == ManagerStatus(version: "9.9", nodeName: "a", features: ["ipv6", "connect-hook"]))
        #expect(try manager.services().map(\.unit) == ["bad@1.service", "web.service"])
        let web = try manager.service(unit: "web.service")
        #expect(web.virtualAddresses == ["10.10.10.11/24", "fd00::11/64"])
        #expect(web.connectHookAttached)
        #expect(web.dnsName == "web.example.org")
        #expect(try manager.service(unit: "bad@1.service").error.contains("bad@.service:7"))
        let servicePath = try manager.servicePath(unit: "web.service")
        #expect(try manager.check(servicePath: servicePath, node: "node-b").map(\.passed) == [true, false])
        let path = try manager.migrate(servicePath: servicePath, to: "node-b")
        #expect(try manager.migrations().map(\.path) == [path])
        #expect(try manager.drain(node: "a") == ["/org/mobilityd1/migration/2"])
        try manager.reload()
        try manager.claimAddress(unit: "web.service")
        try manager.releaseAddress(unit: "web.service")
        #expect(try manager.mayStart(unit: "departed.service").why == "it runs on node-b")
        let calls = fixture.backend.state.withLock { $0.calls }
        #expect(calls == ["reload", "claim web.service", "release web.service", "may-start departed.service"])
    }
}

/// One after the other, because the environment names the bus of the running test.
@Suite(.serialized) struct BusTests {}
