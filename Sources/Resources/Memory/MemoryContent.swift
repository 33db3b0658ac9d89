import CKernel
import Glibc
import Kernel
import ProcessImage

/// Which pages of a mapping hold something that only this process has.
public enum MemoryContent {
    /// PAGE_IS_GUARD.
    private static let guardRegion = Pagemap.Categories(rawValue: 1 << 8)

    /// Pages of a private mapping that are neither the file's nor the zero page: present or swapped out.
    static func privatePages(
        _ vma: VMAImage, pagemap: borrowing FileDescriptor
    ) throws(ResourceError) -> [Range<UInt64>] {
        var ranges: [Range<UInt64>] = []
        do throws(KernelError) {
            var query = Pagemap.Query(range: vma.start..<vma.end)
            query.anyOf = [.present, .swapped]
            query.allOf = [.file, .zero]
            query.inverted = [.file, .zero]
            query.reported = .present
            let runs = try Pagemap.scan(pagemap, query)
            for run in runs {
                if let last = ranges.last, last.upperBound == run.range.lowerBound {
                    ranges[ranges.count - 1] = last.lowerBound..<run.range.upperBound
                } else {
                    ranges.append(run.range)
                }
            }
            for hole in vma.guardRanges { ranges = subtract(hole, from: ranges) }
        } catch {
            throw ResourceError(vma.subject, "cannot tell which pages are in use", cause: error)
        }
        return ranges
    }

    /// Looks for guard regions in all mappings of a captured process, and adds them to the mappings' flags.
    public static func addGuards(to process: inout ProcessImage) throws(ResourceError) {
        let places = process.vmas.indices.filter { index in
            let vma = process.vmas[index]
            if vma.kind == .vdso || vma.kind == .vvar { return false }
            return !GuardRegions.areFlagged || vma.has("gu")
        }
        if places.isEmpty { return }
        do throws(KernelError) {
            let pagemap = try FileDescriptor.open("/proc/\(process.pid)/pagemap", O_RDONLY)
            for index in places { process.vmas[index].addGuards(try guards(process.vmas[index], pagemap: pagemap)) }
        } catch {
            throw ResourceError("process \(process.pid)", "cannot tell its guard pages", cause: error)
        }
    }

    /// Guard regions (MADV_GUARD_INSTALL) of a mapping; none where the kernel does not tell them (before 6.15).
    static func guards(
        _ vma: VMAImage, pagemap: borrowing FileDescriptor
    ) throws(KernelError) -> [Range<UInt64>] {
        do throws(KernelError) {
            var query = Pagemap.Query(range: vma.start..<vma.end)
            query.allOf = guardRegion
            query.reported = guardRegion
            return try Pagemap.scan(pagemap, query).map(\.range)
        } catch  where error.code == .invalidArgument {
            return []
        }
    }

    /// `ranges` without `hole`.
    public static func subtract(_ hole: Range<UInt64>, from ranges: [Range<UInt64>]) -> [Range<UInt64>] {
        ranges.flatMap { range -> [Range<UInt64>] in
            guard range.overlaps(hole) else { return [range] }
            var parts: [Range<UInt64>] = []
            if range.lowerBound < hole.lowerBound { parts.append(range.lowerBound..<hole.lowerBound) }
            if hole.upperBound < range.upperBound { parts.append(hole.upperBound..<range.upperBound) }
            return parts
        }
    }
}

extension VMAImage {
    public var range: Range<UInt64> { start..<end }

    /// For errors.
    var subject: String {
        "mapping \(String(start, radix: 16))-\(String(end, radix: 16))\(file.map { " (\($0.path))" } ?? "")"
    }

    func has(_ flag: String) -> Bool { flags.split(separator: " ").contains { $0 == flag } }

    /// Guard regions travel as words `guard:START-END` (hexadecimal) among the flags.
    mutating func addGuards(_ ranges: [Range<UInt64>]) {
        for range in ranges {
            flags += " guard:\(String(range.lowerBound, radix: 16))-\(String(range.upperBound, radix: 16))"
        }
    }

    var guardRanges: [Range<UInt64>] {
        flags.split(separator: " ").filter { $0.hasPrefix("guard:") }.compactMap { word in
            let ends = word.dropFirst(6).split(separator: "-").compactMap { UInt64($0, radix: 16) }
            return ends.count == 2 && ends[0] < ends[1] ? ends[0]..<ends[1] : nil
        }
    }
}
