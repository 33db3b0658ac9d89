import CEmbryo
import CKernel
import Glibc
import Kernel
import ProcessImage
import Resources

extension ServiceRestore {
    /// Brings every process's mappings to what `image` says; content that stays where it was is kept.
    ///
    /// May be called again with a later image: pre-copy writes into what the first call mapped.
    public func mapMemory(_ newImage: ServiceImage) throws(RestoreError) {
        image = newImage
        for process in image.processes {
            let embryo = try member(process.pid)
            if mapped[process.pid] == nil { try placeKernelMappings(process, embryo) }
            let old = mapped[process.pid] ?? []
            try unmapGone(process, old, embryo)
            embryo.gather()
            for vma in process.vmas {
                for part in Self.missing(vma, in: old) {
                    try resource { () throws(ResourceError) in
                        try MemoryKinds.of(vma).restore(part, in: embryo, context: self)
                    }
                }
            }
            try step(process.pid, "map memory") { () throws(KernelError) in try embryo.flush() }
            mapped[process.pid] = process.vmas
        }
    }

    /// The same memory under both descriptions, so that content written for one is right for the other.
    private static func compatible(_ a: VMAImage, _ b: VMAImage) -> Bool {
        a.kind == b.kind && a.file?.path == b.file?.path && a.shared == b.shared
            && a.fileWritable == b.fileWritable
            && (a.kind == .anonymous || a.offset &- a.start == b.offset &- b.start)
            && a.flags.contains(" gd") == b.flags.contains(" gd")
            && (a.flags.contains(" ac") == b.flags.contains(" ac"))
    }

    /// The parts of `vma` that nothing compatible in `old` covers.
    static func missing(_ vma: VMAImage, in old: [VMAImage]) -> [VMAImage] {
        var ranges = [vma.range]
        for other in old where compatible(vma, other) { ranges = MemoryContent.subtract(other.range, from: ranges) }
        return ranges.map { range in
            var part = vma
            part.start = range.lowerBound
            part.end = range.upperBound
            if vma.kind != .anonymous { part.offset = vma.offset + (range.lowerBound - vma.start) }
            return part
        }
    }

    private func unmapGone(_ process: ProcessImage, _ old: [VMAImage], _ embryo: Embryo) throws(RestoreError) {
        var calls: [EmbryoCall] = []
        for vma in old where vma.kind != .vdso && vma.kind != .vvar {
            for part in Self.missing(vma, in: process.vmas) {
                calls.append(
                    EmbryoCall(
                        Int32(SYS_munmap), [.address(part.start), .int(Int(part.end - part.start))], on: "gone mapping")
                )
            }
        }
        if calls.isEmpty { return }
        try step(process.pid, "unmap what is gone") { () throws(KernelError) in try embryo.run(calls) }
    }

    /// Moves vdso and vvar from their parking place to where the service's registers and auxv expect them.
    private func placeKernelMappings(_ process: ProcessImage, _ embryo: Embryo) throws(RestoreError) {
        try step(process.pid, "vdso") { () throws(KernelError) in
            let pieces = try EmbryoBirth.kernelMappings(of: "\(process.pid)")
            guard let vdso = pieces.first(where: { $0.name == "[vdso]" }), process.layout.vdso != 0 else {
                throw KernelError(call: "mremap", object: "no vdso on one of the hosts", code: .noEntry)
            }
            let distance = process.layout.vdso &- vdso.range.lowerBound
            if distance != 0 { try embryo.run(pieces.map { EmbryoBirth.move($0, by: distance) }) }
        }
    }

    /// Final protection and advice, then the marks of the address space.
    func sealMemory(_ process: ProcessImage) throws(RestoreError) {
        let embryo = try member(process.pid)
        embryo.gather()
        for vma in process.vmas {
            try resource { () throws(ResourceError) in try MemoryKinds.of(vma).seal(vma, in: embryo) }
        }
        try step(process.pid, "protections") { () throws(KernelError) in
            try embryo.flush()
            guard process.futureLocks != 0 else { return }
            try embryo.call(Int32(SYS_mlockall), .int(Int(process.futureLocks)), on: "locks of new mappings")
        }
        try restoreLayout(process, embryo)
    }

    /// prctl(2) PR_SET_MM_MAP: exe, brk, arguments, environment, auxv.
    private func restoreLayout(_ process: ProcessImage, _ embryo: Embryo) throws(RestoreError) {
        try step(process.pid, "executable and layout") { () throws(KernelError) in
            let path = process.executable.path
            let exe = try embryo.call(
                Int32(SYS_open), .path(path), .int(O_RDONLY | O_CLOEXEC), .int(0), on: path
            ).value
            let layout = process.layout
            var map = Words([
                layout.startCode, layout.endCode, layout.startData, layout.endData, layout.startBrk, layout.brk,
                layout.startStack, layout.argStart, layout.argEnd, layout.envStart, layout.envEnd,
            ])
            // struct prctl_mm_map has 104 bytes; the vector follows it in the same scratch memory.
            map.add(layout.auxv.content.isEmpty ? 0 : embryo.scratchAddress + 104)
            map.add(UInt32(layout.auxv.content.count))
            map.add(UInt32(exe))
            try embryo.call(
                Int32(SYS_prctl), .int(35), .int(14), .bytes(map.bytes + layout.auxv.content), .int(104), .int(0),
                on: "PR_SET_MM_MAP \(path)")
            try embryo.call(Int32(SYS_close), .int(exe), on: path)
        }
    }

    // MARK: shared objects

    func makeShared(_ index: Int32) throws(KernelError) -> FileDescriptor {
        guard image.sharedMemory.indices.contains(Int(index)) else {
            throw KernelError(call: "shared memory", object: "object \(index) is not in the image", code: .noEntry)
        }
        let object = image.sharedMemory[Int(index)]
        switch object.kind {
        case .memfd: return try makeMemfd(object)
        case .anonymous: return try makeAnonymous(object, index)
        case .file: return try makeFile(object)
        case .systemV:
            throw KernelError(call: "shmget", object: "System V segment \(object.identifier)", code: .notPermitted)
        }
    }

    private func makeMemfd(_ object: SharedMemoryImage) throws(KernelError) -> FileDescriptor {
        // F_SEAL_SEAL alone is what a memfd without MFD_ALLOW_SEALING has.
        let flags = MFD_CLOEXEC_ | (object.seals == 1 ? 0 : MFD_ALLOW_SEALING_)
        let raw = try systemCall("memfd_create", on: object.name) {
            object.name.withCString { ck_syscall(Int(SYS_memfd_create), Int(bitPattern: $0), flags, 0, 0, 0, 0) }
        }
        let memory = FileDescriptor(owning: Int32(raw))
        try systemCall("ftruncate", on: object.name) { ftruncate(memory.raw, Int(object.size)) }
        return memory
    }

    /// A file of /dev/shm as the service sees it, under its name unless that was gone. The name must be free: what has
    /// it is somebody else's.
    private func makeFile(_ object: SharedMemoryImage) throws(KernelError) -> FileDescriptor {
        let root = tree.place.holder.map { "/proc/\($0)/root" } ?? ""
        guard SharedMemoryFiles.contains(object.name) else {
            throw KernelError(call: "open", object: object.name, code: .notPermitted)
        }
        let memory: FileDescriptor
        if object.isUnlinked {
            memory = try FileDescriptor.open(
                root + SharedMemoryFiles.directory, OpenFlag.temporaryFile | O_RDWR, mode: 0o600)
        } else {
            let path = root + object.name
            memory = try FileDescriptor.open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, mode: 0o600)
            madeFiles.append(path)
        }
        let raw = memory.raw
        try systemCall("fchown", on: object.name) { fchown(raw, object.user, object.group) }
        try systemCall("fchmod", on: object.name) { fchmod(raw, object.mode & 0o7777) }
        try systemCall("ftruncate", on: object.name) { ftruncate(raw, Int(object.size)) }
        return memory
    }

    /// The seals of memfd_create(2) objects, F_ADD_SEALS of fcntl(2): after their content, which some of them forbid
    /// to change.
    func sealSharedObjects() throws(RestoreError) {
        for (index, shared) in sharedObjects {
            let object = image.sharedMemory[Int(index)]
            // F_SEAL_SEAL alone is there from the beginning.
            guard object.kind == .memfd, object.seals > 1 else { continue }
            try step(0, "seals of memfd \(object.name)") { () throws(KernelError) in
                let raw = shared.descriptor.raw
                // F_SEAL_EXEC of an executable file would seal it against writing as well, mm/memfd.c.
                try systemCall("fchmod", on: object.name) { fchmod(raw, object.mode & 0o777) }
                try systemCall("fcntl", on: object.name) { ck_fcntl(raw, 1033, Int(object.seals)) }
            }
        }
    }

    private var MFD_CLOEXEC_: Int { 1 }
    private var MFD_ALLOW_SEALING_: Int { 2 }

    /// Made by mmap in the first process that maps it, so that smaps shows it as before; opened through map_files.
    private func makeAnonymous(_ object: SharedMemoryImage, _ index: Int32) throws(KernelError) -> FileDescriptor {
        guard let process = image.processes.first(where: { $0.vmas.contains { $0.shared == index } }),
            let embryo = tree.embryos[process.pid]
        else { throw KernelError(call: "mmap", object: "shared memory \(index) has no mapping", code: .noEntry) }
        let address = embryo.region.kept.upperBound + 0x100_0000
        let size = Int((object.size + 4095) & ~4095)
        try embryo.call(
            Int32(SYS_mmap), .address(address), .int(size), .int(PROT_READ | PROT_WRITE),
            .int(Int(MAP_SHARED | MAP_ANONYMOUS) | 0x10_4000), .int(-1), .int(0), on: "shared memory \(index)")
        let range = "\(String(address, radix: 16))-\(String(address + UInt64(size), radix: 16))"
        let memory = try FileDescriptor.open("/proc/\(process.pid)/map_files/\(range)", O_RDWR)
        try embryo.call(Int32(SYS_munmap), .address(address), .int(size), on: "shared memory \(index)")
        return memory
    }
}

extension Embryo {
    /// Where the first `.bytes` or `.output` argument of a single call lies.
    var scratchAddress: UInt64 { EmbryoSlot.address(leader.base) + UInt64(EMBRYO_SCRATCH) }
}
