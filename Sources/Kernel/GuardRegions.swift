import CKernel
import Glibc

/// Pages whose touch is a fault though their mapping allows it, madvise(2) MADV_GUARD_INSTALL (Linux 6.13).
public enum GuardRegions {
    /// MADV_GUARD_INSTALL.
    public static let install: Int32 = 102

    /// Whether smaps shows by the flag `gu` which mappings may have such pages: then the others need no look at their
    /// page tables. Asked by making one; false as well where it cannot be made.
    public static let areFlagged: Bool = {
        let size = 4096
        let address = mmap(nil, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        guard let address, address != MAP_FAILED else { return false }
        defer { munmap(address, size) }
        guard madvise(address, size, install) == 0 else { return false }
        let start = UInt64(UInt(bitPattern: address))
        let lines = try? ProcMaps.readDetailed(pid: getpid())
        return lines?.first { $0.start <= start && start < $0.end }?.flags.contains("gu") ?? false
    }()
}
