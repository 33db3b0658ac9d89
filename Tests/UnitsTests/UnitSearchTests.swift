import Testing
import Units

@Suite struct UnitSearchTests {
    private func files(_ name: String, _ tree: [String: String]) -> UnitSearch<MemoryUnitFiles>.Files? {
        UnitName(name).flatMap { search(tree).files(of: $0) }
    }

    @Test func strongerDirectoryWinsAndNamesSort() {
        let found = files(
            "web.service",
            [
                "/usr/lib/systemd/system/web.service": "a", "/etc/systemd/system/web.service": "b",
                "/usr/lib/systemd/system/web.service.d/10-a.conf": "", "/etc/systemd/system/web.service.d/20-b.conf": "",
                "/run/systemd/system/web.service.d/10-a.conf": "", "/etc/systemd/system/web.service.d/30-c.txt": "",
                "/usr/lib/systemd/system/web.service.d/15-m.conf": "",
                "/etc/systemd/system/web.service.d/15-m.conf": "-> /dev/null",
            ])
        #expect(
            found?.all == [
                "/etc/systemd/system/web.service", "/run/systemd/system/web.service.d/10-a.conf",
                "/etc/systemd/system/web.service.d/20-b.conf",
            ])
    }

    @Test func instancePrefixAndTypeDropIns() {
        let root = "/etc/systemd/system/"
        let found = files(
            "foo-bar@x.service",
            [
                root + "foo-bar@.service": "a", root + "foo-bar@.service.d/1.conf": "",
                root + "foo-bar@x.service.d/2.conf": "", root + "foo-@.service.d/3.conf": "",
                root + "service.d/4.conf": "", root + "foo-@x.service.d/5.conf": "", root + "foo-bar@y.service.d/6.conf": "",
            ])
        #expect(found?.fragment == root + "foo-bar@.service")
        #expect(
            found?.dropIns == [
                root + "foo-bar@.service.d/1.conf", root + "foo-bar@x.service.d/2.conf", root + "foo-@.service.d/3.conf",
                root + "service.d/4.conf", root + "foo-@x.service.d/5.conf",
            ])
    }

    @Test func aliasLeadsToItsUnit() {
        let found = files(
            "www.service",
            [
                "/etc/systemd/system/www.service": "-> ../../../usr/lib/systemd/system/web.service",
                "/usr/lib/systemd/system/web.service": "a", "/etc/systemd/system/www.service.d/a.conf": "",
                "/etc/systemd/system/web.service.d/b.conf": "",
            ])
        #expect(found?.unit == "web.service")
        #expect(found?.fragment == "/usr/lib/systemd/system/web.service")
        #expect(found?.dropIns.count == 2)
    }

    @Test func masked() {
        #expect(files("a.service", ["/etc/systemd/system/a.service": "-> /dev/null", "/usr/lib/systemd/system/a.service": "x"]) == nil)
        #expect(files("a.service", ["/etc/systemd/system/a.service": ""]) == nil)
        #expect(files("a.service", [:]) == nil)
    }

    @Test func linkedUnitOutsideTheSearchPath() {
        let found = files("a.service", ["/etc/systemd/system/a.service": "-> /opt/a/a.service", "/opt/a/a.service": "x"])
        #expect(found?.fragment == "/opt/a/a.service")
    }

    @Test func enabledInstancesAreFound() {
        let names = search([
            "/usr/lib/systemd/system/foo@.service": "x",
            "/etc/systemd/system/multi-user.target.wants/foo@a.service": "-> /usr/lib/systemd/system/foo@.service",
            "/etc/systemd/system/foo@b.service.d/x.conf": "",
        ]).names().map(\.full)
        #expect(names == ["foo@.service", "foo@a.service", "foo@b.service"])
    }
}
