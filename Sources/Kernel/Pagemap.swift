import CKernel
import Glibc

/// ioctl PAGEMAP_SCAN on /proc/PID/pagemap, Documentation/admin-guide/mm/pagemap.rst.
public enum Pagemap {
    public struct Categories: OptionSet, Hashable, Sendable {
        public let rawValue: UInt64
        public init(rawValue: UInt64) { self.rawValue = rawValue }
        public static let writeProtectAllowed = Categories(rawValue: 1)
        public static let written = Categories(rawValue: 2)
        public static let file = Categories(rawValue: 4)
        public static let present = Categories(rawValue: 8)
        public static let swapped = Categories(rawValue: 16)
        public static let zeroPage = Categories(rawValue: 32)
        public static let huge = Categories(rawValue: 64)
        public static let softDirty = Categories(rawValue: 128)
        /// Guard regions, Linux ≥ 6.15.
        public static let guardRegion = Categories(rawValue: 256)
    }

    public struct Run: Hashable, Sendable {
        public var range: Range<UInt64>
        public var categories: Categories
    }

    /// Ranges within `range` whose pages have all of `allOf` and one of `anyOf` (when not empty) after the bits of
    /// `inverted` were turned over; `returned` bits are reported and separate the runs.
    public static func scan(
        _ pagemap: borrowing FileDescriptor, range: Range<UInt64>, anyOf: Categories = [], allOf: Categories = [],
        inverted: Categories = [], returned: Categories
    ) throws(KernelError) -> [Run] {
        var runs: [Run] = []
        var start = range.lowerBound
        let capacity = 512
        var regions = [UInt64](repeating: 0, count: capacity * 3)
        let raw = pagemap.raw
        while start < range.upperBound {
            var walkEnd: UInt64 = 0
            let count = try systemCall("PAGEMAP_SCAN", on: "0x\(String(start, radix: 16))") {
                regions.withUnsafeMutableBytes { buffer in
                    var argument: [UInt64] = [
                        96, 0, start, range.upperBound, 0, UInt64(UInt(bitPattern: buffer.baseAddress)),
                        UInt64(capacity), 0, inverted.rawValue, allOf.rawValue, anyOf.rawValue, returned.rawValue,
                    ]
                    let result = argument.withUnsafeMutableBytes { ck_ioctl(raw, 0xc060_6610, $0.baseAddress) }
                    walkEnd = argument[4]
                    return result
                }
            }
            for index in 0..<Int(count) {
                let found = regions[index * 3]..<regions[index * 3 + 1]
                runs.append(Run(range: found, categories: Categories(rawValue: regions[index * 3 + 2])))
            }
            if Int(count) < capacity || walkEnd <= start { break }
            start = walkEnd
        }
        return runs
    }
}
