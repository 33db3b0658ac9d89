import CKernel
import Glibc
import Kernel
import ProcessImage

/// The system calls that make a mapping at its address and later give it its final form.
enum MappingCalls {
    /// Advice that smaps shows as a flag, madvise(2).
    private static let advice: [(flag: String, advice: Int)] = [
        ("rr", 1), ("sr", 2), ("dc", 10), ("mg", 12), ("hg", 14), ("nh", 15), ("dd", 16), ("wf", 18),
    ]
    private static let fixedNoReplace = 0x10_0000

    /// A mapping that was ever writable is charged (`ac`) and must take content; another keeps its protection.
    static func buildProtection(_ vma: VMAImage) -> Int32 {
        let isPrivate = vma.kind == .anonymous || vma.kind == .filePrivate || vma.kind == .sharedMemoryPrivate
        return isPrivate && (vma.has("ac") || vma.has("nr") || vma.has("wr"))
            ? vma.protection | PROT_READ | PROT_WRITE : vma.protection
    }

    static func map(_ vma: VMAImage, sharing: Int32, descriptor: EmbryoArgument?) -> EmbryoCall {
        var flags = Int(sharing) | fixedNoReplace
        if descriptor == nil { flags |= Int(MAP_ANONYMOUS) }
        if vma.has("gd") { flags |= 0x100 }
        if vma.has("nr") { flags |= 0x4000 }
        return EmbryoCall(
            Int32(SYS_mmap),
            [
                .address(vma.start), .int(Int(vma.end - vma.start)), .int(buildProtection(vma)), .int(flags),
                descriptor ?? .int(-1), .int(Int(vma.offset)),
            ], on: vma.subject)
    }

    /// The name that `[anon:NAME]` or `[anon_shmem:NAME]` shows, PR_SET_VMA_ANON_NAME of prctl(2).
    static func name(_ vma: VMAImage) -> [EmbryoCall] {
        guard let shown = vma.file?.path, shown.hasPrefix("[anon"), shown.hasSuffix("]"),
            let colon = shown.firstIndex(of: ":")
        else { return [] }
        // A kernel without anonymous names still carries the memory.
        return [
            EmbryoCall(
                Int32(SYS_prctl),
                [
                    .int(0x5356_4d41), .int(0), .address(vma.start), .int(Int(vma.end - vma.start)),
                    .path(String(shown[shown.index(after: colon)...].dropLast())),
                ], on: vma.subject, mustSucceed: false)
        ]
    }

    /// Huge page advice has to come before the content.
    static func early(_ vma: VMAImage) -> [EmbryoCall] {
        advice.filter { ($0.flag == "hg" || $0.flag == "nh") && vma.has($0.flag) }.map {
            advise(vma.range, $0.advice, vma)
        }
    }

    static func advise(_ range: Range<UInt64>, _ advice: Int, _ vma: VMAImage) -> EmbryoCall {
        EmbryoCall(
            Int32(SYS_madvise),
            [.address(range.lowerBound), .int(Int(range.upperBound - range.lowerBound)), .int(advice)],
            on: "\(vma.subject) advice \(advice)")
    }

    static func seal(_ vma: VMAImage) -> [EmbryoCall] {
        var calls: [EmbryoCall] = []
        for entry in advice where vma.has(entry.flag) && entry.flag != "hg" && entry.flag != "nh" {
            calls.append(advise(vma.range, entry.advice, vma))
        }
        for range in vma.guardRanges { calls.append(advise(range, Int(GuardRegions.install), vma)) }
        let size = Int(vma.end - vma.start)
        if buildProtection(vma) != vma.protection {
            calls.append(
                EmbryoCall(
                    Int32(SYS_mprotect), [.address(vma.start), .int(size), .int(vma.protection)], on: vma.subject))
        }
        if vma.has("lo") {
            // The lock stands even where not all pages can be had: guard pages, or none that may be touched.
            calls.append(
                EmbryoCall(
                    Int32(SYS_mlock2), [.address(vma.start), .int(size), .int(vma.has("lf") ? 1 : 0)],
                    on: vma.subject, mustSucceed: vma.guardRanges.isEmpty && vma.protection != PROT_NONE))
        }
        return calls
    }

    /// Runs `calls`, naming the mapping in an error.
    static func run(
        _ calls: [EmbryoCall], _ vma: VMAImage, in embryo: any EmbryoPort, _ what: String
    ) throws(ResourceError) {
        do throws(KernelError) { try embryo.perform(calls) } catch {
            throw ResourceError("pid \(embryo.pid) \(vma.subject)", what, cause: error)
        }
    }

    /// The fields every kind copies.
    static func image(_ probe: VMAProbe, _ kind: VMAImage.Kind) -> VMAImage {
        var vma = VMAImage(
            start: probe.start, end: probe.end, protection: probe.protection, kind: kind,
            flags: probe.flags.joined(separator: " "))
        vma.offset = probe.offset
        return vma
    }
}

extension MemoryKind {
    public static func check(_ probe: VMAProbe, in context: CheckContext) -> [Refusal] { [] }

    public static func seal(_ vma: VMAImage, in embryo: any EmbryoPort) throws(ResourceError) {
        let calls = MappingCalls.seal(vma)
        if !calls.isEmpty { try MappingCalls.run(calls, vma, in: embryo, "cannot set protection or advice") }
    }
}
