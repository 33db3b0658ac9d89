import CKernel
import Glibc

/// A shared anonymous mapping, mmap(2), that goes away with its owner; children of fork keep theirs.
///
/// Unchecked because of its address, which never changes; who may touch which bytes when is the business of the type
/// that owns the region.
public struct MappedRegion: ~Copyable, @unchecked Sendable {
    // Unchecked: the memory is shared with other processes anyway; who may write what is agreed by its users.
    /// Where it is mapped.
    public let base: UnsafeMutableRawPointer
    /// Bytes.
    public let count: Int

    public var range: Range<UInt64> {
        let start = UInt64(UInt(bitPattern: base))
        return start..<start + UInt64(count)
    }

    /// Maps `count` bytes, readable and writable, exactly at `address`; EEXIST when something is there.
    public init(at address: UInt64, count: Int) throws(KernelError) {
        let flags = MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE | 0x10_0000 /* MAP_FIXED_NOREPLACE */
        let result = try systemCall("mmap", on: "\(count) bytes at 0x\(String(address, radix: 16))") {
            ck_syscall(
                Int(SYS_mmap), Int(bitPattern: UInt(address)), count, Int(PROT_READ | PROT_WRITE), Int(flags), -1, 0)
        }
        guard let base = UnsafeMutableRawPointer(bitPattern: result), UInt64(UInt(bitPattern: base)) == address else {
            throw KernelError(call: "mmap", object: "fixed address", code: .exists)
        }
        self.base = base
        self.count = count
    }

    /// mprotect(2) of a part.
    public func protect(_ part: Range<Int>, _ protection: Int32) throws(KernelError) {
        try systemCall("mprotect", on: "region") { mprotect(base + part.lowerBound, part.count, protection) }
    }

    deinit { munmap(base, count) }
}
