import Testing

@testable import Units

/// What systemd.exec(5) says of each setting: a namespace that none of them makes is the service's own.
struct UnitNamespacesTests {
    @Test func `a unit without a sandbox has the host's namespaces`() {
        let plain: [String: BusValue] = [
            "PrivateTmp": .flag(false), "PrivateUsersEx": .text("no"), "ProtectSystem": .text("no"),
            "ProtectProc": .text("default"), "ProcSubset": .text("all"), "MountFlags": .number(0),
            "BindPaths": .list([]), "IPCNamespacePath": .text(""), "ProtectControlGroupsEx": .text("no"),
        ]
        #expect(UnitNamespaces.made(by: plain).isEmpty)
        #expect(UnitNamespaces.made(by: [:]).isEmpty)
    }

    @Test(
        arguments: [
            ("PrivateTmp", .flag(true), ["mnt"]), ("ProtectSystem", .text("full"), ["mnt"]),
            ("ReadOnlyPaths", .list([.text("/srv")]), ["mnt"]), ("PrivateUsers", .flag(true), ["mnt", "user"]),
            ("PrivateUsersEx", .text("self"), ["mnt", "user"]), ("PrivateIPC", .flag(true), ["ipc", "mnt"]),
            ("ProtectHostname", .flag(true), ["mnt", "uts"]), ("ProtectControlGroupsEx", .text("yes"), ["mnt"]),
            ("ProtectControlGroupsEx", .text("private"), ["cgroup", "mnt"]), ("NoNewPrivileges", .flag(true), []),
        ] as [(String, BusValue, [String])])
    func `a setting makes its own`(_ name: String, _ value: BusValue, _ made: [String]) {
        #expect(UnitNamespaces.made(by: [name: value]).sorted() == made)
    }
}
