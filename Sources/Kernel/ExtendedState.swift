import CKernel

/// The xsave area's geometry on this processor, Intel SDM volume 1 chapter 13, CPUID leaf 0xD.
public struct ExtendedState: Sendable {
    public struct Component: Sendable {
        public var size: Int
        /// Offset in the standard form.
        public var offset: Int
        public var isAligned: Bool
        public var isSupervisor: Bool
    }

    /// Components 2…62 that exist, by number.
    public let components: [Int: Component]
    /// XCR0: what user mode may use.
    public let enabled: UInt64
    /// Bytes of the standard form with all enabled components, what PTRACE_SETREGSET NT_X86_XSTATE wants.
    public let standardSize: Int

    public static let current = ExtendedState()

    init() {
        var leaf = [UInt32](repeating: 0, count: 4)
        enabled = ck_enabled_components()
        ck_cpuid(0xd, 1, &leaf)
        let supervisor = UInt64(leaf[3]) << 32 | UInt64(leaf[2])
        var found: [Int: Component] = [:]
        var size = 576
        for number in 2..<63 where (enabled | supervisor) & (1 << UInt64(number)) != 0 {
            ck_cpuid(0xd, UInt32(number), &leaf)
            guard leaf[0] != 0 else { continue }
            found[number] = Component(
                size: Int(leaf[0]), offset: Int(leaf[1]), isAligned: leaf[2] & 2 != 0, isSupervisor: leaf[2] & 1 != 0)
            if enabled & (1 << UInt64(number)) != 0 { size = max(size, Int(leaf[0] + leaf[1])) }
        }
        components = found
        standardSize = size
    }

    /// For tests: a processor that is not this one.
    init(components: [Int: Component], enabled: UInt64, standardSize: Int) {
        self.components = components
        self.enabled = enabled
        self.standardSize = standardSize
    }

    /// The standard form of an area that may be compacted (XSAVEC, XSAVES: bit 63 of XCOMP_BV); nil when the area is
    /// shorter than its own header says. Components in their initial state are left out of XSTATE_BV, as the
    /// processor does.
    public func standard(_ area: [UInt8]) -> [UInt8]? {
        guard area.count >= 576 else { return nil }
        let present = word(area, 512) & enabled
        let compaction = word(area, 520)
        var result = [UInt8](repeating: 0, count: standardSize)
        result.replaceSubrange(0..<512, with: legacy(area, present))
        for byte in 0..<8 { result[512 + byte] = UInt8(truncatingIfNeeded: present >> UInt64(8 * byte)) }
        var packed = 576
        for number in 2..<63 {
            let bit: UInt64 = 1 << UInt64(number)
            guard let component = components[number] else {
                // Without its size nothing after it can be found.
                if compaction >> 63 == 1, compaction & bit != 0 { return nil }
                continue
            }
            var offset = component.offset
            if compaction >> 63 == 1 {
                guard compaction & bit != 0 else { continue }
                if component.isAligned { packed = (packed + 63) & ~63 }
                offset = packed
                packed += component.size
            }
            guard present & bit != 0, !component.isSupervisor else { continue }
            guard offset + component.size <= area.count, component.offset + component.size <= result.count else {
                return nil
            }
            result.replaceSubrange(
                component.offset..<component.offset + component.size, with: area[offset..<offset + component.size])
        }
        return result
    }

    /// The first 512 bytes: what is in its initial state may lie there stale, and is written out as initial.
    private func legacy(_ area: [UInt8], _ present: UInt64) -> [UInt8] {
        var region = [UInt8](repeating: 0, count: 512)
        if present & 1 != 0 {
            region.replaceSubrange(0..<24, with: area[0..<24])
            region.replaceSubrange(32..<160, with: area[32..<160])
        } else {
            // FCW after FNINIT.
            region[0] = 0x7f
            region[1] = 0x03
        }
        if present & 6 != 0 {
            region.replaceSubrange(24..<32, with: area[24..<32])
        } else {
            // MXCSR after reset; its mask says which bits exist.
            region[24] = 0x80
            region[25] = 0x1f
            region[28] = 0xff
            region[29] = 0xff
        }
        if present & 2 != 0 { region.replaceSubrange(160..<416, with: area[160..<416]) }
        return region
    }

    private func word(_ area: [UInt8], _ offset: Int) -> UInt64 {
        area.withUnsafeBytes { UInt64(littleEndian: $0.loadUnaligned(fromByteOffset: offset, as: UInt64.self)) }
    }
}
