import Glibc
import Kernel
import Lab

/// Real limits, set from outside the host: cgroups of version 1, where the machine has those controllers.
extension Injection {
    private var controller: String { fault == .noPids ? "pids" : "memory" }
    private var group: String { "/sys/fs/cgroup/\(controller)/mobilityd-\(bench.lab.name)" }

    /// The destination's daemon goes into a group that has no room left; what it makes is born there.
    func limit() throws -> Bool {
        guard let daemon = standing.destination.daemon else { return false }
        try Files.makeDirectories(group)
        try Files.writeControl(group + "/cgroup.procs", "\(daemon)")
        switch fault {
        case .noPids:
            let count = try Files.readText(group + "/pids.current").split(separator: "\n").first ?? "1"
            try Files.writeControl(group + "/pids.max", String(count))
        case .noMemory(let size): try Files.writeControl(group + "/memory.limit_in_bytes", "\(size * 1024)")
        default: break
        }
        return true
    }

    /// The processes stay, the limit goes.
    func unlimit() {
        guard Files.exists(group) else { return }
        if fault == .noPids {
            try? Files.writeControl(group + "/pids.max", "max")
        } else {
            try? Files.writeControl(group + "/memory.limit_in_bytes", "-1")
        }
        for pid in (try? Files.readText(group + "/cgroup.procs"))?.split(separator: "\n") ?? [] {
            try? Files.writeControl("/sys/fs/cgroup/\(controller)/cgroup.procs", String(pid))
        }
        try? waitUntil("removal of \(group)", timeout: .seconds(1)) { rmdir(group) == 0 }
    }

    /// The ownership journal's file system.
    func fill() throws {
        try standing.destination.host.run(
            "dd", "if=/dev/zero", "of=/var/lib/mobilityd/fill", "bs=4k", allowFailure: true)
    }
}
