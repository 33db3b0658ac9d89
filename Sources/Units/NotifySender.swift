import Kernel

/// Speaks to the manager's notification socket in the name of a unit's process, sd_notify(3).
public enum NotifySender {
    /// Announces `mainPID` as the unit's main process and the unit as started.
    ///
    /// Both stand in one datagram: the manager reads MAINPID= before READY=. The sender it sees is `pid`, a process of
    /// the unit, as NotifyAccess= asks; its user and group must be those of that process or root's.
    ///
    /// - Parameter notifySocket: the value of NOTIFY_SOCKET in that process's environment.
    public static func announce(
        mainPID: Int32, notifySocket: String, asPID pid: Int32, uid: UInt32, gid: UInt32
    ) throws(KernelError) {
        let sender = NotifySocket.Credentials(pid: pid, uid: uid, gid: gid)
        try NotifySocket.send("MAINPID=\(mainPID)\nREADY=1", to: notifySocket, as: sender)
    }

    /// Resets the unit's watchdog, whose clock runs on while its processes are frozen.
    public static func keepAlive(
        notifySocket: String, asPID pid: Int32, uid: UInt32, gid: UInt32
    ) throws(KernelError) {
        let sender = NotifySocket.Credentials(pid: pid, uid: uid, gid: gid)
        try NotifySocket.send("WATCHDOG=1", to: notifySocket, as: sender)
    }

    /// NOTIFY_SOCKET in the environment of process `pid`, proc_pid_environ(5); nil when it has none.
    public static func socket(ofPID pid: Int32) throws(KernelError) -> String? {
        let key = Array("NOTIFY_SOCKET=".utf8)
        for entry in try Files.read("/proc/\(pid)/environ").split(separator: 0) where entry.starts(with: key) {
            return String(decoding: entry.dropFirst(key.count), as: UTF8.self)
        }
        return nil
    }
}
