import BusContract
import BusService
import Testing

extension BusTests {
    @Test func everyoneReadsAndOnlyRootActsWithoutPolkit() throws {
        let fixture = try Fixture()
        #expect(try fixture.manager("ListServices", asNobody: true).status == 0)
        #expect(try fixture.busctl("tree org.mobilityd1", asNobody: true).status == 0)
        #expect(
            try fixture.busctl(
                "get-property org.mobilityd1 /org/mobilityd1/node/a org.mobilityd1.Node State", asNobody: true
            ).output == "s \"self\"\n")
        for call in [
            "MigrateUnit ssa{sv} web.service node-b 0", "CheckUnit ss web.service node-b", "DrainNode sa{sv} a 0",
            "Reload",
        ] {
            let result = try fixture.manager(call, asNobody: true)
            #expect(result.status == 1)
            #expect(result.output.contains("polkit cannot be asked"), "\(result.output)")
        }
        for call in ["MayStart s web.service", "ClaimAddress s web.service", "ReleaseAddress s web.service"] {
            let result = try fixture.manager(call, asNobody: true)
            #expect(result.status == 1)
            #expect(result.output.lowercased().contains("denied"), "\(result.output)")
        }
        #expect(fixture.backend.state.withLock { $0.calls }.isEmpty)
        #expect(fixture.backend.migrations().isEmpty)
    }

    @Test func polkitIsAskedWithUnitVerbAndNode() throws {
        let fixture = try Fixture()
        let polkit = try PolkitAuthority(grants: true)
        let result = try fixture.manager("MigrateUnit ssa{sv} web.service node-b 0", asNobody: true)
        #expect(result.output == "o \"/org/mobilityd1/migration/1\"\n")
        let cancelled = try fixture.busctl(
            "call org.mobilityd1 /org/mobilityd1/migration/1 org.mobilityd1.Migration Cancel", asNobody: true)
        #expect(cancelled.status == 0)
        // Root is not asked about.
        #expect(try fixture.manager("Reload").status == 0)
        let questions = polkit.record.questions.withLock { $0 }
        #expect(questions.map(\.action) == ["org.mobilityd1.migrate", "org.mobilityd1.migrate"])
        #expect(questions.first?.details == ["unit": "web.service", "verb": "migrate", "node": "node-b"])
        #expect(questions.last?.details["verb"] == "cancel")
        #expect(questions.first?.sender.hasPrefix(":1.") == true)
    }

    @Test func polkitMayRefuse() throws {
        let fixture = try Fixture()
        let polkit = try PolkitAuthority(grants: false)
        let result = try fixture.manager("DrainNode sa{sv} a 0", asNobody: true)
        #expect(result.status == 1)
        #expect(result.output.contains("polkit does not grant org.mobilityd1.manage-nodes"))
        #expect(polkit.record.questions.withLock { $0.count } == 1)
        #expect(fixture.backend.migrations().isEmpty)
    }

    @Test func everyActionIsDescribed() throws {
        let policy = try shell("cat \(repositoryRoot)/dbus/org.mobilityd1.policy").output
        for action in ["migrate", "check", "manage-nodes", "reload"] {
            #expect(policy.contains("<action id=\"org.mobilityd1.\(action)\">"))
        }
    }
}
