import Glibc
import Kernel

/// A host that loses its power, and gets it again.
extension Lab {
    /// What is on a host's disk and outlives its boot; all else of a host is as its stage has it.
    private static let disk = ["/var/lib/mobilityd", "/etc/mobilityd", "/etc/systemd/system", Lab.programDirectory]

    /// Kills the host's PID 1, and with it every process of the host, at once. Its network goes with it, and what it
    /// has written to its disk stays, also what it has not synced.
    public func crash(_ name: String) throws {
        let host = try self[name]
        guard let identity = host.identity else { throw LabError("\(name) has no PID 1") }
        // The mounts go with the processes; directories that are held open stay readable.
        let held = try Self.disk.filter { Files.exists("/proc/\(identity.pid)/root\($0)") }
            .map { Held(path: $0, number: try host.open($0, O_RDONLY | O_DIRECTORY).release()) }
        defer { for directory in held { close(directory.number) } }
        try identity.kill()
        try waitUntil("end of \(name)") { !identity.isAlive }
        try ControlGroups.remove(host.cgroup)
        for directory in held {
            let stage = paths.stage(name) + directory.path
            try Files.makeDirectories(stage)
            // What was deleted must not come back.
            try Subprocess.run(["/usr/bin/find", stage, "-mindepth", "1", "-delete"])
            try Subprocess.run(["/bin/cp", "-a", "/proc/\(getpid())/fd/\(directory.number)/.", stage + "/"])
        }
    }

    private struct Held {
        let path: String
        let number: Int32
    }

    /// Boots a host that has crashed, with a network of its own and what was on its disk.
    public func boot(_ name: String, timeout: Duration = .seconds(30)) throws {
        let host = try self[name]
        let members = try Files.readText(paths.members).split(separator: "\n")
        guard let member = members.compactMap({ LabMember(line: String($0)) }).first(where: { $0.name == name })
        else { throw LabError("lab \(self.name) has no member \(name)") }
        try LabNetwork(paths: paths).renew(member)
        try Files.makeDirectories(host.cgroup)
        unlink(paths.member(name) + "/pid")
        let boot = try HostBoot(member, paths: paths, cgroup: host.cgroup)
        launchers.withLock { $0.append(boot.launcher) }
        try boot.finish(timeout: timeout)
        host.boot.identity.withLock { $0 = ProcessIdentity(recordedAt: paths.initProcess(name)) }
        try host.awaitStarted(timeout)
    }
}
