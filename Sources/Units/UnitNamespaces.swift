/// Which namespaces systemd makes for a service by its settings, systemd.exec(5).
enum UnitNamespaces {
    /// Names under /proc/PID/ns.
    ///
    /// Some settings make one only where the host can; then all the more none of them is the service's own work.
    static func made(by service: [String: BusValue]) -> Set<String> {
        func flag(_ names: String...) -> Bool { names.contains { service[$0]?.bool ?? false } }
        func differs(_ name: String, from usual: String) -> Bool {
            guard let text = service[name]?.string, !text.isEmpty else { return false }
            return text != usual
        }
        var made: Set<String> = []
        if flag("PrivateUsers") || differs("PrivateUsersEx", from: "no") { made.insert("user") }
        if flag("PrivateIPC") || differs("IPCNamespacePath", from: "") { made.insert("ipc") }
        if flag("ProtectHostname") || differs("ProtectHostnameEx", from: "no") { made.insert("uts") }
        // `yes` makes the hierarchy read-only, `private` and `strict` have a namespace.
        if ["private", "strict"].contains(service["ProtectControlGroupsEx"]?.string) { made.insert("cgroup") }
        let texts = [
            ("ProtectSystem", "no"), ("ProtectHome", "no"), ("ProtectProc", "default"), ("ProcSubset", "all"),
            ("RootDirectory", ""), ("RootImage", ""), ("LogNamespace", ""), ("PrivateTmpEx", "no"),
            ("ProtectControlGroupsEx", "no"), ("PrivatePIDs", "no"), ("PrivateBPF", "no"),
        ]
        let isMounted =
            flag(
                "PrivateTmp", "PrivateDevices", "ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs",
                "ProtectControlGroups", "PrivateMounts", "MountAPIVFS", "DynamicUser", "PrivateIPC", "PrivateNetwork",
                "BindLogSockets", "RootEphemeral", "ProtectHostname")
            || texts.contains { differs($0.0, from: $0.1) } || !made.isDisjoint(with: ["user"])
            || (service["MountFlags"]?.unsigned ?? 0) != 0
            || [
                "BindPaths", "BindReadOnlyPaths", "TemporaryFileSystem", "MountImages", "ExtensionImages",
                "ExtensionDirectories", "ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "ExecPaths",
                "NoExecPaths", "LoadCredential", "LoadCredentialEncrypted", "SetCredential", "SetCredentialEncrypted",
                "ImportCredential",
            ].contains { !(service[$0]?.items ?? []).isEmpty }
        if isMounted { made.insert("mnt") }
        return made
    }
}
