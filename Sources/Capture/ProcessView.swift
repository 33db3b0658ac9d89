import Kernel

/// Where this daemon finds the files of a process by the paths that /proc shows.
///
/// Those begin at the root of the process' mount namespace, which is not where /proc/PID/root leads once the process
/// has called chroot(2).
enum ProcessView {
    /// The directory to put before a path; nil when nothing leads to that root any more.
    static func root(of pid: Int32) -> String? {
        var current = pid
        let namespace = mountNamespace("\(pid)")
        // A parent that has kept its root, as daemons have it whose workers give theirs up.
        while current > 1, mountNamespace("\(current)") == namespace {
            if (try? Files.readLink("/proc/\(current)/root")) == "/" { return "/proc/\(current)/root" }
            current = parent(of: current)
        }
        return namespace == mountNamespace("self") ? "" : nil
    }

    private static func mountNamespace(_ process: String) -> String {
        (try? Files.readLink("/proc/\(process)/ns/mnt")) ?? ""
    }

    /// The fourth word of /proc/PID/stat, counted behind the name, which may hold anything.
    private static func parent(of pid: Int32) -> Int32 {
        guard let text = try? Files.readText("/proc/\(pid)/stat"), let end = text.lastIndex(of: ")") else { return 0 }
        let words = text[end...].split(separator: " ")
        return words.count > 2 ? Int32(words[2]) ?? 0 : 0
    }
}
