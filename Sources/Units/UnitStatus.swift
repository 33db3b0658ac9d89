/// A unit as PID 1 sees it at one moment, org.freedesktop.systemd1(5).
public struct UnitStatus: Sendable {
    /// A job that waits or runs for the unit.
    public struct Job: Equatable, Sendable {
        public let id: UInt32
        public let path: String
    }

    /// The unit's own name, whatever alias was asked for.
    public let id: String
    /// `loaded`, `not-found`, `bad-setting`, `error`, `masked`.
    public let loadState: String
    /// `active`, `reloading`, `inactive`, `failed`, `activating`, `deactivating`.
    public let activeState: String
    /// The type's own state: `running`, `start`, `dead`, …
    public let subState: String
    public let fragmentPath: String
    /// In the order in which they apply.
    public let dropInPaths: [String]
    /// Whether its files changed since they were loaded.
    public let needDaemonReload: Bool
    /// 128 bits in lower-case hexadecimal; empty when it never ran.
    public let invocationID: String
    /// Units, sockets among them, that start this one.
    public let triggeredBy: [String]
    public let job: Job?

    /// `simple`, `exec`, `forking`, `oneshot`, `dbus`, `notify`, `idle`; empty for a unit that is no service.
    public let type: String
    /// `success` or what failed: `exit-code`, `signal`, `timeout`, …
    public let result: String
    /// Process id in PID 1's namespace, 0 when there is none.
    public let mainPID: Int32
    /// The process of a control command (ExecStartPre=, ExecStop=, …), 0 when there is none.
    public let controlPID: Int32
    /// Path below the cgroup mount, `/system.slice/web.service`; empty when it has none.
    public let controlGroup: String
    public let pidFile: String
    /// `none`, `main`, `exec`, `all`.
    public let notifyAccess: String
    /// Microseconds; 0 or all ones mean that there is no watchdog.
    public let watchdogUSec: UInt64
    /// `FileDescriptorStoreMax=` and how many descriptors PID 1 holds for the service.
    public let fileDescriptorStoreMax: UInt64
    public let fileDescriptorStoreCount: UInt64
    public let remainAfterExit: Bool
    /// The number of KillSignal=, signal(7).
    public let killSignal: Int32
    public let user: String
    public let privateUsers: Bool
    /// RuntimeDirectory=, below /run.
    public let runtimeDirectories: [String]
    /// Directories that systemd makes before it starts the service: RuntimeDirectory=, StateDirectory= and the like.
    public let madeDirectories: [String]
    public let privateTmp: Bool
    /// What stands at a path for the service is not what the host has there: BindPaths=, RootDirectory= and the like.
    public let hasMountsOfItsOwn: Bool
    public let delegate: Bool
    /// Names under /proc/PID/ns of what systemd makes for the service by its settings.
    public let madeNamespaces: Set<String>
    /// Units that start when this one ends well.
    public let onSuccess: [String]
    public let rootDirectory: String
    /// Paths of NoExecPaths=.
    public let noExecPaths: [String]
    /// How the first ExecStart= line runs.
    public let execPrivilege: MoveDropIns.ExecPrivilege
    public let restart: RestartPolicy
    /// How the main process ended, waitid(2): CLD_EXITED and the like, and the exit code or signal.
    public let mainCode: Int32
    public let mainStatus: Int32
    /// Whether its main process ended before the unit left its active state: nobody had it stopped.
    public let endedByItself: Bool

    init(unit: [String: BusValue], service: [String: BusValue]) {
        func text(_ name: String) -> String { (service[name] ?? unit[name])?.string ?? "" }
        func number(_ name: String) -> UInt64 { service[name]?.unsigned ?? 0 }
        func flag(_ name: String) -> Bool { (service[name] ?? unit[name])?.bool ?? false }
        id = text("Id")
        loadState = text("LoadState")
        activeState = text("ActiveState")
        subState = text("SubState")
        fragmentPath = text("FragmentPath")
        dropInPaths = unit["DropInPaths"]?.strings ?? []
        needDaemonReload = flag("NeedDaemonReload")
        invocationID = (unit["InvocationID"]?.octets ?? []).map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }
            .joined()
        triggeredBy = unit["TriggeredBy"]?.strings ?? []
        let pending = unit["Job"]?.items ?? []
        let number32 = UInt32(truncatingIfNeeded: pending.first?.unsigned ?? 0)
        job = number32 == 0 ? nil : Job(id: number32, path: pending.last?.string ?? "")
        type = text("Type")
        result = text("Result")
        mainPID = Int32(truncatingIfNeeded: number("MainPID"))
        controlPID = Int32(truncatingIfNeeded: number("ControlPID"))
        controlGroup = text("ControlGroup")
        pidFile = text("PIDFile")
        notifyAccess = text("NotifyAccess")
        watchdogUSec = number("WatchdogUSec")
        fileDescriptorStoreMax = number("FileDescriptorStoreMax")
        fileDescriptorStoreCount = number("NFileDescriptorStore")
        remainAfterExit = flag("RemainAfterExit")
        killSignal = Int32(truncatingIfNeeded: service["KillSignal"]?.integer ?? 0)
        user = text("User")
        privateUsers = flag("PrivateUsers")
        runtimeDirectories = service["RuntimeDirectory"]?.strings ?? []
        madeDirectories = [
            ("Runtime", "/run"), ("State", "/var/lib"), ("State", "/var/lib/private"), ("Cache", "/var/cache"),
            ("Cache", "/var/cache/private"), ("Logs", "/var/log"), ("Logs", "/var/log/private"),
            ("Configuration", "/etc"),
        ].flatMap { kind, root in (service[kind + "Directory"]?.strings ?? []).map { "\(root)/\($0)" } }
        hasMountsOfItsOwn =
            ["BindPaths", "BindReadOnlyPaths", "TemporaryFileSystem", "MountImages", "ExtensionImages"].contains {
                !(service[$0]?.items ?? []).isEmpty
            } || !text("RootImage").isEmpty || !text("RootDirectory").isEmpty
        privateTmp = flag("PrivateTmp")
        delegate = flag("Delegate")
        madeNamespaces = UnitNamespaces.made(by: service)
        onSuccess = unit["OnSuccess"]?.strings ?? []
        rootDirectory = text("RootDirectory")
        noExecPaths = service["NoExecPaths"]?.strings ?? []
        restart = RestartPolicy(service)
        mainCode = Int32(truncatingIfNeeded: service["ExecMainCode"]?.integer ?? 0)
        mainStatus = Int32(truncatingIfNeeded: service["ExecMainStatus"]?.integer ?? 0)
        let end = number("ExecMainExitTimestampMonotonic")
        endedByItself = end > 0 && end <= unit["ActiveExitTimestampMonotonic"]?.unsigned ?? 0
        // ExecStartEx: (path, argv, flags, …) a line.
        let flags = service["ExecStartEx"]?.items.first?.items.dropFirst(2).first?.strings ?? []
        execPrivilege =
            flags.contains("privileged")
            ? .full
            : flags.contains("no-setuid") ? .noSetUID : flags.contains("ambient") ? .ambient : .ordinary
    }
}

/// One line of the manager's list of units.
public struct UnitListEntry: Sendable {
    public let name: String
    public let description: String
    public let loadState: String
    public let activeState: String
    public let subState: String
    /// The unit's object path on the bus.
    public let path: String
}

/// How a job ended, the `result` of JobRemoved.
public enum JobResult: Equatable, Sendable {
    case done, canceled, timeout, failed, dependency, skipped
    /// A result that this program does not know by name.
    case other(String)

    init(_ text: String) {
        switch text {
        case "done": self = .done
        case "canceled": self = .canceled
        case "timeout": self = .timeout
        case "failed": self = .failed
        case "dependency": self = .dependency
        case "skipped": self = .skipped
        default: self = .other(text)
        }
    }
}
