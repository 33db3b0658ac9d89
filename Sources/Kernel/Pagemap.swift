import CKernel
import Glibc

/// PAGEMAP_SCAN of /proc/PID/pagemap, Documentation/admin-guide/mm/pagemap.rst.
public enum Pagemap {
    /// Page categories, `PAGE_IS_…`.
    public struct Categories: OptionSet, Hashable, Sendable {
        public let rawValue: UInt64
        public init(rawValue: UInt64) { self.rawValue = rawValue }
        public static let writeProtectAllowed = Categories(rawValue: 1 << 0)
        public static let written = Categories(rawValue: 1 << 1)
        public static let file = Categories(rawValue: 1 << 2)
        public static let present = Categories(rawValue: 1 << 3)
        public static let swapped = Categories(rawValue: 1 << 4)
        public static let zero = Categories(rawValue: 1 << 5)
        public static let huge = Categories(rawValue: 1 << 6)
        public static let softDirty = Categories(rawValue: 1 << 7)
    }

    /// `PM_SCAN_…`.
    public struct Options: OptionSet, Sendable {
        public let rawValue: UInt64
        public init(rawValue: UInt64) { self.rawValue = rawValue }
        /// Write-protects what matches; needs an asynchronous write-protect userfaultfd on the mapping.
        public static let writeProtectMatching = Options(rawValue: 1)
        /// Fails with EPERM where no such userfaultfd is registered, instead of passing over it.
        public static let checkWriteProtectAsync = Options(rawValue: 2)
    }

    public struct Query: Sendable {
        public var range: Range<UInt64>
        public var options: Options = []
        /// Categories whose absence is what matches.
        public var inverted: Categories = []
        /// All of these must match.
        public var allOf: Categories = []
        /// At least one of these must match, unless empty.
        public var anyOf: Categories = []
        /// Reported with each region; adjacent pages that differ in them are separate regions.
        public var reported: Categories = []
        public init(range: Range<UInt64>) { self.range = range }
    }

    public struct Region: Equatable, Sendable {
        public var range: Range<UInt64>
        public var categories: Categories
    }

    /// All matching regions of `query.range`, ascending.
    public static func scan(_ pagemap: borrowing FileDescriptor, _ query: Query) throws(KernelError) -> [Region] {
        var result: [Region] = []
        let capacity = 1024
        // struct page_region: start, end, categories.
        var vector = [UInt64](repeating: 0, count: capacity * 3)
        var start = query.range.lowerBound
        while start < query.range.upperBound {
            let raw = pagemap.raw
            var walkEnd: UInt64 = 0
            let from = start
            let count = try systemCall("ioctl", on: "pagemap PAGEMAP_SCAN") {
                vector.withUnsafeMutableBytes { buffer in
                    var argument: [UInt64] = [
                        96, query.options.rawValue, from, query.range.upperBound, 0,
                        UInt64(UInt(bitPattern: buffer.baseAddress)), UInt64(capacity), 0,
                        query.inverted.rawValue, query.allOf.rawValue, query.anyOf.rawValue, query.reported.rawValue,
                    ]
                    let result = argument.withUnsafeMutableBytes { ck_ioctl(raw, scanRequest, $0.baseAddress) }
                    walkEnd = argument[4]
                    return Int(result)
                }
            }
            for index in 0..<count {
                result.append(
                    Region(
                        range: vector[index * 3]..<vector[index * 3 + 1],
                        categories: Categories(rawValue: vector[index * 3 + 2])))
            }
            // A vector that is not full means that the walk came to the end, whatever walk_end says.
            if count < capacity || walkEnd <= start { break }
            start = walkEnd
        }
        return result
    }

    /// _IOWR('f', 16, struct pm_scan_arg) with 96 bytes.
    private static let scanRequest: UInt = 0xc060_6610
}
