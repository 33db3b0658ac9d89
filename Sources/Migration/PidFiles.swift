import Glibc
import Kernel
import ProcessImage

/// PID files that no unit declares: a daemon that its own control program finds by one, as apachectl(8) does, would be
/// taken for ended after a move if the file stayed behind.
///
/// Such a file is below /run, has a name that ends in `.pid`, and holds nothing but the number of one of the
/// service's processes. The numbers are the same on both hosts.
enum PidFiles {
    static let root = "/run"
    /// How deep below /run they are looked for.
    private static let depth = 3
    /// Bytes of the longest file that is looked into: a number, and room for blanks.
    private static let longest: Int64 = 32

    /// The files that name one of `pids`, sorted. What cannot be read is none.
    static func find(naming pids: Set<Int32>) -> [String] {
        var found: [String] = []
        search(root, depth: depth, pids, &found)
        return found.sorted()
    }

    private static func search(_ directory: String, depth: Int, _ pids: Set<Int32>, _ found: inout [String]) {
        for name in (try? Files.list(directory)) ?? [] {
            let path = directory + "/" + name
            var status = stat()
            guard lstat(path, &status) == 0 else { continue }
            switch status.st_mode & S_IFMT {
            case S_IFDIR where depth > 1 && !isOthers(path): search(path, depth: depth - 1, pids, &found)
            case S_IFREG where name.hasSuffix(".pid") && status.st_size <= longest:
                if let content = try? Files.read(path), let pid = number(content), pids.contains(pid) {
                    found.append(path)
                }
            default: break
            }
        }
    }

    /// Directories of the manager, of users and of this daemon, in which no service keeps its own.
    private static func isOthers(_ path: String) -> Bool {
        ["/systemd", "/user", "/udev", "/mobilityd"].contains { path == root + $0 }
    }

    /// The number that a file consists of, with blanks around it.
    private static func number(_ content: [UInt8]) -> Int32? {
        let words = String(decoding: content, as: UTF8.self).split(whereSeparator: \.isWhitespace)
        guard words.count == 1, let pid = Int32(words[0]), pid > 1 else { return nil }
        return pid
    }

    /// Adds the files, each after the directories above it.
    static func add(_ paths: [String], to state: inout LocalState) throws(KernelError) {
        var directories: Set<String> = []
        for path in paths {
            for directory in above(path) where directories.insert(directory).inserted {
                try state.addAlone(directory)
            }
            try state.addAlone(path)
        }
    }

    /// `/run/a` and `/run/a/b` of `/run/a/b/c.pid`.
    private static func above(_ path: String) -> [String] {
        let parts = path.split(separator: "/").dropLast()
        return (2..<max(2, parts.count + 1)).map { "/" + parts.prefix($0).joined(separator: "/") }
    }

    /// What of `state` is to be placed here: a directory of /run that is there stays as it is, unless the unit owns it.
    static func arriving(_ state: LocalState, unless owned: [String]) -> LocalState {
        var result = state
        result.entries.removeAll { entry in
            !entry.isPrivate && entry.mode & S_IFMT == S_IFDIR && entry.path.hasPrefix(root + "/")
                && !owned.contains { entry.path == $0 || entry.path.hasPrefix($0 + "/") } && Files.exists(entry.path)
        }
        return result
    }

    /// The paths below /run that may be placed because they are, or lead to, files that name one of `pids`.
    static func places(in state: LocalState, naming pids: Set<Int32>) -> [String] {
        let files = state.entries.filter { entry in
            guard entry.path.hasPrefix(root + "/"), entry.path.hasSuffix(".pid"), entry.mode & S_IFMT == S_IFREG,
                let pid = number(entry.content.content)
            else { return false }
            return pids.contains(pid)
        }
        return files.flatMap { [$0.path] + above($0.path) }
    }
}
