import Kernel
import Units

/// What speaks against a move of the unit as such, whatever its processes hold.
enum UnitLines {
    /// One line a reason; none when there is no reason.
    ///
    /// - Parameter pids: the unit's processes.
    static func check(_ view: UnitView, pids: [Int32]) -> [CheckLine] {
        settings(view.status) + namespaces(view, pids)
    }

    /// The check again, on what is frozen now. The manager is asked only for units that may give it something to keep.
    static func checkFrozen(_ view: UnitView, pids: [Int32]) throws(MoveError) -> [CheckLine] {
        var lines = namespaces(view, pids)
        if view.status.fileDescriptorStoreMax > 0 {
            let count = try SourceMove.step("asking systemd for the descriptors that it keeps") {
                try SystemdClient().storedDescriptors(view.name)
            }
            lines += stored(count, view.status.id)
        }
        return lines
    }

    private static func stored(_ count: UInt64, _ unit: String) -> [CheckLine] {
        guard count > 0 else { return [] }
        let why =
            "systemd keeps \(count) descriptors for it (FDSTORE=1), which cannot be carried; set "
            + "FileDescriptorStoreMax=0, or move it by stop and start"
        return [CheckLine("unit", unit, passed: false, why: why)]
    }

    private static func settings(_ status: UnitStatus) -> [CheckLine] {
        var lines: [CheckLine] = []
        func refuse(_ why: String) { lines.append(CheckLine("unit", status.id, passed: false, why: why)) }
        if status.type == "oneshot" {
            refuse(
                "has Type=oneshot, whose end systemd awaits; for a service that runs on use Type=simple, exec, notify "
                    + "or forking")
        }
        lines += stored(status.fileDescriptorStoreCount, status.id)
        for other in status.onSuccess {
            refuse("has OnSuccess=\(other), which would start when the service leaves; remove it")
        }
        return lines
    }

    /// A namespace that no setting of the unit makes is the service's own work, unshare(2). The destination's systemd
    /// would not make it again.
    private static func namespaces(_ view: UnitView, _ pids: [Int32]) -> [CheckLine] {
        let kinds: [(NamespaceKind, String)] = [
            (.mount, "mount"), (.uts, "UTS"), (.ipc, "IPC"), (.user, "user"), (.cgroup, "cgroup"),
        ]
        // The others have the same, or are refused for that by the check of the processes.
        guard let first = pids.first else { return [] }
        var lines: [CheckLine] = []
        for (kind, name) in kinds where !view.status.madeNamespaces.contains(kind.name) {
            // One that has ended has none; what remains is looked at again when the service is frozen.
            guard let host = try? kind.identity(of: 1), let own = try? kind.identity(of: first), own != host else {
                continue
            }
            lines.append(
                CheckLine(
                    "resource", "process \(first) \(name) namespace", passed: false,
                    why: "is the service's own (unshare(2)), which cannot be carried; switch off the service's own "
                        + "sandbox, and sandbox it by its unit"))
        }
        return lines
    }
}
