/// When systemd starts a service again that has ended by itself: `Restart=` and what belongs to it, systemd.service(5).
public struct RestartPolicy: Sendable {
    /// `no`, `always`, `on-success`, `on-failure`, `on-abnormal`, `on-watchdog`, `on-abort`.
    public let mode: String
    /// RestartSec=, microseconds.
    public let pauseMicroseconds: UInt64
    /// Signals of SuccessExitStatus=.
    let successSignals: [Int64]
    /// RestartPreventExitStatus= and RestartForceExitStatus=: exit codes and signals.
    let prevented: (codes: [Int64], signals: [Int64])
    let forced: (codes: [Int64], signals: [Int64])

    init(_ service: [String: BusValue]) {
        func statuses(_ name: String) -> (codes: [Int64], signals: [Int64]) {
            let lists = (service[name]?.items ?? []).map { $0.items.map { Int64($0.integer ?? 0) } }
            return lists.count == 2 ? (lists[0], lists[1]) : ([], [])
        }
        mode = service["Restart"]?.string ?? ""
        pauseMicroseconds = service["RestartUSec"]?.unsigned ?? 0
        successSignals = statuses("SuccessExitStatus").signals
        prevented = statuses("RestartPreventExitStatus")
        forced = statuses("RestartForceExitStatus")
    }

    /// How the main process ended: `code` is of waitid(2), CLD_EXITED 1, CLD_KILLED 2, CLD_DUMPED 3.
    ///
    /// - Parameter result: Result=, which the drop-in of a move turns into `success` after a SIGKILL.
    public func restarts(result: String, code: Int32, status: Int32) -> Bool {
        func contains(_ set: (codes: [Int64], signals: [Int64])) -> Bool {
            (code == 1 ? set.codes : set.signals).contains(Int64(status))
        }
        if contains(prevented) { return false }
        if contains(forced) { return true }
        let wasHidden = result == "success" && code == 2 && status == 9 && !successSignals.contains(9)
        let result = wasHidden ? "signal" : result
        return switch mode {
        case "always": result != "exec-condition"
        case "on-success": result == "success"
        case "on-failure": !["success", "exec-condition"].contains(result)
        case "on-abnormal": !["success", "exit-code", "exec-condition"].contains(result)
        case "on-watchdog": result == "watchdog"
        case "on-abort": ["signal", "core-dump"].contains(result)
        default: false
        }
    }
}
