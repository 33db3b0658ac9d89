import Glibc
import Kernel
import ProcessImage
import Resources

/// Something of a restored process that is not as the image says.
public struct Difference: Hashable, Sendable, CustomStringConvertible {
    public var pid: Int32
    public var what: String
    public var expected: String
    public var found: String
    public var description: String { "process \(pid) \(what): \(found) instead of \(expected)" }
}

extension ServiceRestore {
    /// Compares what /proc shows of each process with the image; after `stop`, before or after `release`.
    public func verify() throws(RestoreError) -> [Difference] {
        var all: [Difference] = []
        for process in image.processes {
            all += try step(process.pid, "verify") { () throws(KernelError) in
                try mappings(process) + numbers(process) + status(process) + descriptors(process)
            }
        }
        return all
    }

    /// One mapping as text; the kernel merges neighbours, so runs of alike mappings are compared as one.
    private func runs(_ pieces: [(range: Range<UInt64>, what: String)]) -> [String] {
        var merged: [(range: Range<UInt64>, what: String)] = []
        for piece in pieces.sorted(by: { $0.range.lowerBound < $1.range.lowerBound }) {
            if let last = merged.last, last.what == piece.what, last.range.upperBound == piece.range.lowerBound {
                merged[merged.count - 1].range = last.range.lowerBound..<piece.range.upperBound
            } else {
                merged.append(piece)
            }
        }
        return merged.map {
            "\(String($0.range.lowerBound, radix: 16))-\(String($0.range.upperBound, radix: 16)) \($0.what)"
        }
    }

    private func mappings(_ process: ProcessImage) throws(KernelError) -> [Difference] {
        let wanted = runs(
            process.vmas.map { vma in
                let isShared = vma.kind == .fileShared || vma.kind == .sharedMemory
                let isFile = vma.kind == .filePrivate || vma.kind == .fileShared
                return (vma.range, "\(vma.protection) \(isShared) \(isFile ? vma.file?.path ?? "" : "")")
            })
        let found = runs(
            try ProcMaps.read(pid: process.pid).filter { $0.name != "[vsyscall]" }.map { line in
                let isObject =
                    line.name.hasPrefix("/memfd:") || line.name.hasPrefix("/dev/zero (del")
                    || SharedMemoryFiles.contains(line.name)
                let path = line.name.hasPrefix("/") && !isObject ? line.name : ""
                return (line.start..<line.end, "\(line.protection) \(line.isShared) \(path)")
            })
        let missing = Set(wanted).subtracting(found).sorted()
        let surplus = Set(found).subtracting(wanted).sorted()
        if missing.isEmpty && surplus.isEmpty { return [] }
        return [
            Difference(
                pid: process.pid, what: "mappings", expected: missing.joined(separator: "; "),
                found: surplus.joined(separator: "; "))
        ]
    }

    private func numbers(_ process: ProcessImage) throws(KernelError) -> [Difference] {
        let text = try Files.readText("/proc/\(process.pid)/stat")
        guard let end = text.lastIndex(of: ")") else { return [] }
        let fields = text[end...].split(separator: " ").dropFirst().map(String.init)
        guard fields.count > 3 else { return [] }
        var pairs: [(String, Int32, String)] = [
            ("group", process.group, fields[2]), ("session", process.session, fields[3]),
        ]
        if tree.embryos[process.parent] != nil { pairs.append(("parent", process.parent, fields[1])) }
        var all = pairs.filter { "\($0.1)" != $0.2 }.map {
            Difference(pid: process.pid, what: $0.0, expected: "\($0.1)", found: $0.2)
        }
        let threads = try Files.list("/proc/\(process.pid)/task").compactMap { Int32($0) }.sorted()
        let wanted = process.threads.map(\.tid).sorted()
        if threads != wanted {
            all.append(Difference(pid: process.pid, what: "threads", expected: "\(wanted)", found: "\(threads)"))
        }
        return all
    }

    private func status(_ process: ProcessImage) throws(KernelError) -> [Difference] {
        let credentials = process.credentials
        func hex(_ value: UInt64) -> String {
            let digits = String(value, radix: 16)
            return String(repeating: "0", count: max(0, 16 - digits.count)) + digits
        }
        let users = [
            credentials.realUser, credentials.effectiveUser, credentials.savedUser, credentials.fileSystemUser,
        ]
        let groups = [
            credentials.realGroup, credentials.effectiveGroup, credentials.savedGroup, credentials.fileSystemGroup,
        ]
        let wanted: [String: String] = [
            "Uid": users.map { "\($0)" }.joined(separator: "\t"),
            "Gid": groups.map { "\($0)" }.joined(separator: "\t"),
            "CapInh": hex(credentials.inheritable), "CapPrm": hex(credentials.permitted),
            "CapEff": hex(credentials.effective), "CapBnd": hex(credentials.bounding),
            "CapAmb": hex(credentials.ambient), "NoNewPrivs": credentials.noNewPrivileges ? "1" : "0",
            "Seccomp_filters": "\(credentials.seccompFilters)",
        ]
        var all: [Difference] = []
        for line in try Files.readText("/proc/\(process.pid)/status").split(separator: "\n") {
            let parts = line.split(separator: ":", maxSplits: 1)
            guard parts.count == 2, let expected = wanted[String(parts[0])] else { continue }
            let found = String(parts[1].drop { $0 == "\t" || $0 == " " })
            if found != expected {
                all.append(Difference(pid: process.pid, what: String(parts[0]), expected: expected, found: found))
            }
        }
        return all
    }

    private func descriptors(_ process: ProcessImage) throws(KernelError) -> [Difference] {
        let wanted = process.descriptors.map(\.number).sorted()
        let found = try Files.list("/proc/\(process.pid)/fd").compactMap { Int32($0) }.sorted()
        if wanted == found { return [] }
        return [Difference(pid: process.pid, what: "descriptors", expected: "\(wanted)", found: "\(found)")]
    }
}
