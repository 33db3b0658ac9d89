import CKernel
import Glibc
import Kernel

/// The lab's own branch of the cgroup v2 tree, cgroups(7).
enum ControlGroups {
    /// Where the lab mounts the tree itself when the machine has it nowhere, or nowhere writable.
    static let ownMount = LabPaths.base + "/cgroup2"

    /// The cgroup under which one lab's hosts live, `…/mobilityd-lab/NAME`, made if needed.
    static func make(lab name: String) throws -> String {
        for mount in mounts() {
            let path = "\(mount)/mobilityd-lab/\(name)"
            if (try? Files.makeDirectories(path)) != nil { return path }
        }
        try Files.makeDirectories(ownMount)
        try Subprocess.run(["/usr/bin/mount", "-t", "cgroup2", "mobilityd-lab", ownMount])
        let path = "\(ownMount)/mobilityd-lab/\(name)"
        try Files.makeDirectories(path)
        return path
    }

    /// Ends every process below `path` with cgroup.kill and removes the whole branch. All in it is the lab's.
    static func remove(_ path: String) throws {
        guard Files.exists(path) else { return }
        try waitUntil("end of all processes in \(path)", timeout: .seconds(20)) {
            // Again each time: a command that was just being started may have entered behind the last kill.
            try Files.writeControl(path + "/cgroup.kill", "1")
            return try Files.readText(path + "/cgroup.events").contains("populated 0")
        }
        try removeBranch(path)
    }

    /// Removes the lab's root cgroup once no lab is left in it, and the lab's own mount.
    static func removeRootIfEmpty() {
        for mount in mounts() { rmdir("\(mount)/mobilityd-lab") }
        if mounts().contains(ownMount) {
            _ = try? Subprocess.run(["/usr/bin/umount", ownMount], allowFailure: true)
            rmdir(ownMount)
        }
    }

    private static func removeBranch(_ path: String) throws {
        for name in try Files.list(path) where isDirectory("\(path)/\(name)") { try removeBranch("\(path)/\(name)") }
        try waitUntil("removal of \(path)", timeout: .seconds(5)) { rmdir(path) == 0 || !Files.exists(path) }
    }

    private static func isDirectory(_ path: String) -> Bool {
        var information = stat()
        return lstat(path, &information) == 0 && information.st_mode & S_IFMT == S_IFDIR
    }

    /// The mount points of cgroup2 in this mount namespace, proc_pid_mountinfo(5).
    static func mounts() -> [String] {
        let table = (try? Files.readText("/proc/self/mountinfo")) ?? ""
        return table.split(separator: "\n").compactMap { line in
            let fields = String(line).words
            guard let dash = fields.firstIndex(of: "-"), dash + 1 < fields.count, fields[dash + 1] == "cgroup2"
            else { return nil }
            return fields[4]
        }
    }
}
