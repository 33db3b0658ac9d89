import Kernel
import ProcessImage

/// What makes a mapping impossible to carry, whatever its kind; smaps' VmFlags are described in
/// Documentation/filesystems/proc.rst.
enum MemoryChecks {
    /// Flag, why, remedy.
    private static let flags: [(String, String, String)] = [
        ("ht", "huge pages of hugetlbfs belong to this host's pool", "let the service use transparent huge pages"),
        ("sl", "the mapping is sealed by mseal(2) and could not be sealed alike", "switch sealing off in the service"),
        ("um", "the service itself watches it by userfaultfd", "switch that use of userfaultfd off"),
        ("uw", "the service itself watches it by userfaultfd", "switch that use of userfaultfd off"),
        ("ui", "the service itself watches it by userfaultfd", "switch that use of userfaultfd off"),
        ("mm", "it maps a device or persistent memory directly (DAX)", "use a file system without DAX"),
        ("io", "it maps a device", "configure the service not to use the device"),
        ("pf", "it maps a device's or the kernel's pages", "configure the service not to use the device"),
        ("dp", "droppable memory cannot be read reliably", "use a C library whose getrandom has no such state"),
        ("ss", "it is a shadow stack", "start the service without GLIBC_TUNABLES=glibc.cpu.x86_shstk"),
    ]

    private static let names: [(String, String, String)] = [
        ("anon_inode:[io_uring]", "io_uring rings are shared with this kernel", "switch io_uring off in the service"),
        ("/[aio]", "a context of io_setup(2) cannot be made again", "switch native AIO off in the service"),
        ("/secretmem", "memfd_secret memory is hidden from the daemon", "switch secret memory off in the service"),
        ("[uprobes]", "a tracer has put uprobes into the process", "end the tracer"),
        (
            "/SYSV", "a System V segment cannot get its identifier on another host",
            "configure the service for POSIX or mmap shared memory; PostgreSQL always has one: it cannot move"
        ),
    ]

    static func refusals(_ probe: VMAProbe) -> [Refusal] {
        if VdsoMemory.recognises(probe) || VvarMemory.recognises(probe) { return [] }
        for (prefix, why, remedy) in names where probe.name.hasPrefix(prefix) {
            return [refusal(probe, why, remedy)]
        }
        for (flag, why, remedy) in flags where probe.flags.contains(flag) { return [refusal(probe, why, remedy)] }
        if isDeleted(probe.name), !isSharedObject(probe) {
            return [
                refusal(
                    probe, "the mapped file has been deleted or replaced, so only this mapping still has its content",
                    "restart the service (usually it runs on a library or program that was upgraded)")
            ]
        }
        if probe.name.hasPrefix("/dev/"), !isSharedObject(probe) {
            return [refusal(probe, "it maps a device", "configure the service not to use the device")]
        }
        return []
    }

    static func refusal(_ probe: VMAProbe, _ why: String, _ remedy: String) -> Refusal {
        let place = "mapping \(String(probe.start, radix: 16))-\(String(probe.end, radix: 16))"
        return Refusal(pid: probe.pid, subject: place, object: probe.name, why: why, remedy: remedy)
    }

    static func isDeleted(_ name: String) -> Bool { name.hasSuffix(" (deleted)") }

    /// Shared anonymous memory, a memfd, or a file of /dev/shm.
    static func isSharedObject(_ probe: VMAProbe) -> Bool {
        probe.name.hasPrefix("/memfd:") || probe.name == "/dev/zero (deleted)"
            || probe.name.hasPrefix("[anon_shmem:") || SharedMemoryFiles.contains(probe.name)
    }

    static func isFile(_ probe: VMAProbe) -> Bool {
        probe.inode != 0 && probe.name.hasPrefix("/") && !isSharedObject(probe)
    }
}
