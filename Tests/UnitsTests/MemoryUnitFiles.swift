import Kernel
import Units

/// Unit files held in a dictionary; a value `-> target` is a symbolic link.
struct MemoryUnitFiles: UnitFileSource {
    var files: [String: String]

    func text(_ path: String) throws(KernelError) -> String {
        guard let text = files[path] else { throw KernelError(call: "open", object: path, code: .noEntry) }
        return text
    }

    func names(in directory: String) -> [String] {
        let prefix = directory + "/"
        return Set(files.keys.filter { $0.hasPrefix(prefix) }.map { String($0.dropFirst(prefix.count).prefix { $0 != "/" }) })
            .sorted()
    }

    func linkTarget(_ path: String) -> String? {
        guard let text = files[path], text.hasPrefix("-> ") else { return nil }
        return String(text.dropFirst(3))
    }
}

/// Searches `files` in three directories of the usual order.
func search(_ files: [String: String]) -> UnitSearch<MemoryUnitFiles> {
    UnitSearch(
        directories: ["/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system"],
        source: MemoryUnitFiles(files: files))
}
