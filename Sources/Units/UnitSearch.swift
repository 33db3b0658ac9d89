import CSystemd
import Glibc
import Kernel

/// Finds unit files the way PID 1 does, systemd.unit(5) "Unit File Load Path": for programs that run before, or
/// without, the manager.
public struct UnitSearch<Source: UnitFileSource> {
    /// The directories, the strongest first.
    public let directories: [String]
    let source: Source
    /// The names in each directory, read once.
    private let listing: [String: [String]]

    /// Where a unit's settings come from.
    public struct Files: Equatable, Sendable {
        /// The unit's own name: what an alias leads to.
        public let unit: String
        /// The unit file.
        public let fragment: String
        /// The drop-ins in the order in which they apply.
        public let dropIns: [String]
        /// All files in that order.
        public var all: [String] { [fragment] + dropIns }
    }

    public init(directories: [String], source: Source) {
        self.directories = directories
        self.source = source
        var listing: [String: [String]] = [:]
        for directory in directories { listing[directory] = source.names(in: directory) }
        self.listing = listing
    }

    /// Every name under which a unit is found or enabled: units, templates, instances, aliases; sorted.
    public func names() -> [UnitName] {
        var found: Set<UnitName> = []
        for directory in directories {
            for entry in listing[directory] ?? [] {
                if let name = UnitName(entry) {
                    found.insert(name)
                } else if entry.hasSuffix(".wants") || entry.hasSuffix(".requires") {
                    found.formUnion(source.names(in: directory + "/" + entry).compactMap(UnitName.init))
                } else if entry.hasSuffix(".d"), let name = UnitName(String(entry.dropLast(2))), name.isInstance {
                    found.insert(name)
                }
            }
        }
        return found.sorted { $0.full < $1.full }
    }

    /// The files of `name`; nil when it does not exist or is masked.
    public func files(of name: UnitName) -> Files? {
        var aliases = [name]
        var current = name
        // Aliases may lead to aliases; a ring of links ends after a few steps, as the kernel's own limit does.
        for _ in 0..<16 {
            guard let path = locate(current) else { return nil }
            guard let target = source.linkTarget(path) else { return gather(current, aliases, path) }
            if target == "/dev/null" { return nil }
            let base = String(target.split(separator: "/").last ?? "")
            guard let next = UnitName(base), next.type == name.type else { return nil }
            if next == current || next == current.template {
                return gather(current, aliases, absolute(target, from: path))
            }
            // An instance's alias to a template means the instance of that template.
            current = next.isTemplate && current.isInstance
                ? UnitName(prefix: next.prefix, instance: current.instance, type: next.type) : next
            if !aliases.contains(current) { aliases.append(current) }
        }
        return nil
    }

    /// The annotation of `files`; nil when they have none.
    public func annotation(of files: Files) throws(AnnotationErrors) -> Annotation? {
        try Annotation.load(fragment: files.fragment, dropIns: files.dropIns, unit: files.unit, from: source)
    }

    private func locate(_ name: UnitName) -> String? {
        for candidate in [name, name.template].compactMap({ $0 }) {
            for directory in directories where listing[directory]?.contains(candidate.full) ?? false {
                return directory + "/" + candidate.full
            }
        }
        return nil
    }

    private func absolute(_ target: String, from link: String) -> String {
        if target.hasPrefix("/") { return target }
        var parts = link.split(separator: "/").dropLast()
        for part in target.split(separator: "/") where part != "." {
            if part == ".." { _ = parts.popLast() } else { parts.append(part) }
        }
        return "/" + parts.joined(separator: "/")
    }

    private func gather(_ unit: UnitName, _ aliases: [UnitName], _ fragment: String) -> Files? {
        // An empty file masks, as a link to /dev/null does.
        if (try? source.text(fragment))?.isEmpty ?? false { return nil }
        return Files(unit: unit.full, fragment: fragment, dropIns: dropIns(of: [unit] + aliases.filter { $0 != unit }))
    }

    /// Drop-ins sorted by name over all directories; of two with one name the stronger directory's counts, and a link
    /// to /dev/null removes it. Directories are searched in systemd's order: name by name, in each the search path
    /// from strong to weak, in each from the full name to its prefixes and template; the type's own come last.
    private func dropIns(of names: [UnitName]) -> [String] {
        var winners: [String: String] = [:]
        let lists = names.map(\.dropInNames) + [names.first.map { [$0.type] } ?? []]
        for list in lists {
            for directory in directories {
                for name in list where listing[directory]?.contains(name + ".d") ?? false {
                    let folder = directory + "/" + name + ".d"
                    for file in source.names(in: folder) where file.hasSuffix(".conf") && !file.hasPrefix(".") {
                        winners[file] = winners[file] ?? folder + "/" + file
                    }
                }
            }
        }
        return winners.keys.sorted().compactMap { winners[$0] }.filter { source.linkTarget($0) != "/dev/null" }
    }
}

extension UnitSearch where Source == DiskUnitFiles {
    /// The search path of this machine's system manager below `root`: `$SYSTEMD_UNIT_PATH` or sd_path_lookup(3).
    ///
    /// The output directories of generators are left out: they are being rewritten while a generator runs.
    public init(root: String = "") {
        let given = getenv("SYSTEMD_UNIT_PATH").map { String(cString: $0) } ?? ""
        var paths = given.split(separator: ":").map(String.init)
        if paths.isEmpty || given.hasSuffix(":") { paths += SearchPath.standard() }
        var seen: Set<String> = []
        // /lib and /usr/lib are one directory on a merged /usr.
        let merged = Glibc.access(root + "/usr/lib/systemd/system", F_OK) == 0
            && (try? Kernel.Files.readLink(root + "/lib")) != nil
        paths = paths.map { merged && $0.hasPrefix("/lib/") ? "/usr" + $0 : $0 }
        self.init(
            directories: paths.filter { !$0.contains("/generator") && seen.insert($0).inserted },
            source: DiskUnitFiles(root: root))
    }
}

/// The manager's compiled-in search path.
enum SearchPath {
    /// From libsystemd; the list of systemd.unit(5) where the library does not answer.
    static func standard() -> [String] {
        var text: UnsafeMutablePointer<CChar>?
        let kind = UInt64(SD_PATH_SYSTEMD_SEARCH_SYSTEM_UNIT)
        guard sd_path_lookup(kind, nil, &text) >= 0, let text else {
            return [
                "/etc/systemd/system.control", "/run/systemd/system.control", "/run/systemd/transient",
                "/etc/systemd/system", "/etc/systemd/system.attached", "/run/systemd/system",
                "/run/systemd/system.attached", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system",
            ]
        }
        defer { free(text) }
        return String(cString: text).split(separator: ":").map(String.init)
    }
}
