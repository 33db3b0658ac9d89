import CEmbryo
import CKernel
import Glibc
import Kernel

/// The shared memory through which the daemon and the embryos of one service talk: the loop's code, then slots.
///
/// It lies at one address in the daemon and in all embryos, outside everything the service maps.
///
/// Unchecked because one arrival, on one thread, uses a region at a time; what embryos and daemon share is handed over
/// by the futex of each slot.
public final class EmbryoRegion: @unchecked Sendable {
    // Unchecked: slots are handed out under one restore, which runs on one thread.
    let memory: MappedRegion
    let slotCount: Int
    private var used = 0

    static let codeSize = 0x10000
    static let slotSize = Int(EMBRYO_SLOT)
    /// Behind the slots: where vdso and vvar wait while everything else is unmapped.
    static let parking: UInt64 = 0x100000
    /// Highest user address of x86-64 with four page table levels.
    static let userEnd: UInt64 = 0x7fff_ffff_f000

    /// The addresses an embryo must keep.
    var kept: Range<UInt64> { memory.range.lowerBound..<memory.range.upperBound + Self.parking }
    var entry: UnsafeRawPointer { UnsafeRawPointer(memory.base + embryo_entry()) }

    public init(slots: Int, avoiding: [Range<UInt64>]) throws(KernelError) {
        slotCount = slots
        let size = Self.codeSize + slots * Self.slotSize
        let step: UInt64 = 0x10_0000_0000
        var candidate: UInt64 = 0x1000_0000_0000
        var found: MappedRegion?
        while found == nil, candidate + UInt64(size) + Self.parking < 0x5000_0000_0000 {
            let wanted = candidate - 0x1000000..<candidate + UInt64(size) + Self.parking + 0x1000000
            candidate += step
            if avoiding.contains(where: { $0.overlaps(wanted) }) { continue }
            do throws(KernelError) {
                found = try MappedRegion(at: candidate - step, count: size)
            } catch  where error.code == .exists {}
        }
        guard let region = consume found else {
            throw KernelError(call: "mmap", object: "free address range of \(size) bytes", code: .noMemory)
        }
        memory = region
        memory.base.copyMemory(from: embryo_code(), byteCount: embryo_code_size())
        try memory.protect(0..<Self.codeSize, PROT_READ | PROT_EXEC)
    }

    /// The next unused slot.
    func takeSlot() throws(KernelError) -> UnsafeMutableRawPointer {
        guard used < slotCount else {
            throw KernelError(call: "slot", object: "\(slotCount) slots are all in use", code: .noSpace)
        }
        used += 1
        return memory.base + Self.codeSize + (used - 1) * Self.slotSize
    }
}
