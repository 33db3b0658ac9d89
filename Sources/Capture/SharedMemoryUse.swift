import Glibc
import Kernel
import ProcessImage
import Resources

/// Which files of shared memory processes use, by mapping or by descriptor.
public enum SharedMemoryUse {
    /// The paths that `pid` uses, files without a name left out; what cannot be read is none.
    public static func paths(of pid: Int32) -> Set<String> {
        Set(files(of: pid).compactMap { visiblePath($0.path, inode: $0.inode, ofProcess: pid) })
    }

    /// The path under which a file can be opened; nil when it has none any more.
    ///
    /// sem_open(3) makes a semaphore under a passing name, links it to its own and removes the first, by which the
    /// kernel goes on showing it, as deleted.
    static func visiblePath(_ shown: String, inode: UInt64, ofProcess pid: Int32) -> String? {
        guard shown.hasSuffix(deleted) else { return shown }
        let directory = (ProcessView.root(of: pid) ?? "") + SharedMemoryFiles.directory
        for name in (try? Files.list(directory)) ?? [] {
            var status = stat()
            guard lstat("\(directory)/\(name)", &status) == 0, UInt64(status.st_ino) == inode else { continue }
            return "\(SharedMemoryFiles.directory)/\(name)"
        }
        return nil
    }

    /// What the kernel adds to the name of a file that has lost it.
    static let deleted = " (deleted)"

    /// Removes the files that a process uses: of a service that lives elsewhere now, or that did not come to live here.
    public static func removeFiles(of pid: Int32) throws(KernelError) {
        for path in paths(of: pid) {
            // As the process sees it; another one of the unit may have used it too.
            do throws(KernelError) { try Files.remove((ProcessView.root(of: pid) ?? "") + path) } catch
                where error.code == .noEntry
            {}
        }
    }

    struct File: Hashable {
        var path: String
        var inode: UInt64
    }

    static func files(of pid: Int32) -> Set<File> {
        var found: Set<File> = []
        for line in (try? ProcMaps.read(pid: pid)) ?? [] where SharedMemoryFiles.contains(line.name) {
            found.insert(File(path: line.name, inode: line.inode))
        }
        for number in (try? Files.list("/proc/\(pid)/fd")) ?? [] {
            let link = "/proc/\(pid)/fd/\(number)"
            guard let path = try? Files.readLink(link), SharedMemoryFiles.contains(path) else { continue }
            var status = stat()
            if stat(link, &status) == 0 { found.insert(File(path: path, inode: UInt64(status.st_ino))) }
        }
        return found
    }
}

extension ServiceInspector {
    /// What speaks against a move before it: `check`, and what takes too long to look for in the frozen time.
    public func checkBeforehand(_ snapshot: ServiceSnapshot) -> [Refusal] {
        check(snapshot) + memoryOfOthers(snapshot) + descriptorsInFlight(snapshot)
    }

    /// Descriptors that wait in a queue for their receiver, unix(7) SCM_RIGHTS. Most are taken at once, so those that
    /// are met in the freeze are a reason to try again; those that wait for long are one to refuse.
    private func descriptorsInFlight(_ snapshot: ServiceSnapshot) -> [Refusal] {
        snapshot.descriptors.filter { ($0.detail("scm_fds") ?? "0") != "0" }.map {
            Refusal(
                pid: $0.pid, subject: "fd \($0.number)", object: $0.link,
                why: "descriptors are in flight in its queue (SCM_RIGHTS), which cannot be carried",
                remedy: "repeat the check; if it stays, the service does not read that socket: restart it")
        }
    }

    /// Shared memory that processes of other units use as well: they stay, and would be left with another memory.
    private func memoryOfOthers(_ snapshot: ServiceSnapshot) -> [Refusal] {
        let own = Set(snapshot.processes.map(\.pid))
        let names =
            snapshot.processes.flatMap(\.mappings).map(\.name) + snapshot.descriptors.map(\.link)
        guard names.contains(where: SharedMemoryFiles.contains) else { return [] }
        let mine = own.reduce(into: Set<SharedMemoryUse.File>()) { $0.formUnion(SharedMemoryUse.files(of: $1)) }
        var refusals: [Refusal] = []
        for pid in ((try? Files.list("/proc")) ?? []).compactMap({ Int32($0) }).sorted() where !own.contains(pid) {
            for file in SharedMemoryUse.files(of: pid) where mine.contains(file) {
                let name = ((try? Files.readText("/proc/\(pid)/comm")) ?? "").filter { !$0.isNewline }
                refusals.append(
                    Refusal(
                        pid: 0, subject: "shared memory", object: file.path,
                        why: "process \(pid) (\(name)) outside the unit uses it too and stays",
                        remedy: "end that process, or have one unit run both"))
            }
        }
        return refusals
    }
}
