import CSystemd
import Glibc
import Kernel

/// What this daemon tells the service manager, sd_notify(3). Says nothing when it was not started by one.
public enum ServiceManager {
    public static func ready(_ status: String) { notify("READY=1\nSTATUS=\(status)") }
    public static func status(_ status: String) { notify("STATUS=\(status)") }
    public static func stopping(_ status: String) { notify("STOPPING=1\nSTATUS=\(status)") }

    /// Begins a reload; `ready` ends it. The time is what `Type=notify-reload` pairs the two by.
    public static func reloading(_ status: String) {
        notify("RELOADING=1\nMONOTONIC_USEC=\(Clock.monotonic / 1000)\nSTATUS=\(status)")
    }

    private static func notify(_ state: String) { sd_notify(0, state) }
}
