/// The two runtime drop-ins of a move, staged before anything is frozen and removed once it is over.
///
/// They go to `path(unit, …)`, each time followed by a reload of the manager.
public enum MoveDropIns {
    /// Which end of a move a drop-in serves.
    public enum Role: String, Sendable { case departing, arriving }

    /// Where the drop-in of `role` belongs: last in the order of names, so that nothing overrides it.
    public static func path(_ unit: String, _ role: Role) -> String {
        "/run/systemd/system/\(unit).d/zz-mobility-\(role.rawValue).conf"
    }

    /// Lets the unit end by `cgroup.kill` as inactive, dead, with success, and runs none of its Exec lines.
    ///
    /// - `SuccessAction=`: the service has not come to its end; the host must not be powered off for it.
    /// - `SuccessExitStatus=SIGKILL` is right only while departing: kept, it would hide a real kill -9.
    /// - `TimeoutStopSec=infinity`, `KillSignal=SIGCONT`: a stop that meets frozen processes must wait for the move's
    ///   outcome. At the end of a stop timeout the manager would send SIGKILL, which reaches frozen processes; and so
    ///   does a SIGTERM that a process does not handle. SIGCONT, which the manager sends at every stop anyway, ends
    ///   none. After a roll-back such a stop is still owed: remove the drop-in, reload, thaw, then
    ///   `SystemdClient.killUnit` with the unit's own `UnitStatus.killSignal`.
    /// - `RemainAfterExit=no`: a unit that remains would stay active here without its processes.
    /// - `PIDFile=`: a forking unit whose main process is gone would look there for another one.
    public static func departure(unit: String) -> String {
        """
        # Staged by mobilityd while \(unit) moves to another node.
        [Unit]
        SuccessAction=none
        FailureAction=none
        [Service]
        ExecStop=
        ExecStopPost=
        Restart=no
        SuccessExitStatus=SIGKILL
        TimeoutStopSec=infinity
        KillSignal=SIGCONT
        RestartKillSignal=SIGCONT
        SendSIGHUP=no
        RemainAfterExit=no
        PIDFile=

        """
    }

    /// How the unit's own command lines run; `mobility-arrive` must see the same sandbox as they do.
    public enum ExecPrivilege: String, Sendable {
        /// No prefix: the sandbox and the user apply.
        case ordinary = ""
        /// `+`: neither applies.
        case full = "+"
        /// `!`: the sandbox applies, the user does not.
        case noSetUID = "!"
        /// `!!`: as `!`, where ambient capabilities are missing.
        case ambient = "!!"
    }

    /// Lets `mobility-arrive` wait inside the unit's sandbox in the place of its ExecStart=.
    ///
    /// - `Type=notify`, so that mobilityd announces the main process; a oneshot unit stays one: arrive's exit 0
    ///   completes it, and the restored processes are its siblings.
    /// - `SuccessAction=`, `FailureAction=`: the end of an arrival that is taken back is not the service's.
    /// - Exec lines are emptied: they ran on the source. ExecStop*= are too: a roll-back must not run them.
    /// - `PIDFile=` is emptied: a leftover file must not name the main process; it counts again after the drop-in.
    /// - `KillSignal=SIGTERM`, `KillMode=mixed`: a roll-back is a plain stop of the unit; arrive ends at SIGTERM with
    ///   status 0 and embryos, which cannot handle a signal, by SIGKILL.
    /// - `WatchdogSec=` is left alone: the manager arms it at READY=1, so the service has the whole interval.
    /// - `ExecPaths=` only where the unit restricts them: without NoExecPaths= it would alone make a mount namespace.
    public static func arrival(
        unit: String, type: String, privilege: ExecPrivilege = .ordinary, restrictsExecPaths: Bool
    ) -> String {
        var lines = [
            "# Staged by mobilityd while \(unit) arrives from another node.", "[Unit]", "SuccessAction=none",
            "FailureAction=none", "[Service]",
        ]
        if type != "oneshot" { lines.append("Type=notify") }
        lines += [
            "NotifyAccess=all", "TimeoutStartSec=infinity", "Restart=no", "KillSignal=SIGTERM", "KillMode=mixed",
            "SuccessExitStatus=SIGKILL", "PIDFile=", "ExecCondition=", "ExecStartPre=", "ExecStart=",
            "ExecStart=\(privilege.rawValue)\(arriveProgram)",
            "ExecStartPost=", "ExecStop=", "ExecStopPost=",
        ]
        if restrictsExecPaths { lines.append("ExecPaths=\(arriveProgram)") }
        return lines.joined(separator: "\n") + "\n"
    }

    /// The program that holds the sandbox open.
    public static let arriveProgram = "/usr/lib/mobilityd/mobility-arrive"
}
