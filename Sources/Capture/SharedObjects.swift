import CKernel
import Glibc
import Kernel
import ProcessImage
import Resources

/// The shared memory objects of a unit, each once, and where this daemon can open them.
struct SharedObjects {
    private struct Key: Hashable {
        var device: UInt64
        var inode: UInt64
    }

    private(set) var images: [SharedMemoryImage] = []
    /// A path of this daemon for each object, for example /proc/17/map_files/7f00-7f01.
    private(set) var sources: [String] = []
    private var indices: [Key: Int32] = [:]
    private var places: [Key: (pid: Int32, path: String, name: String)] = [:]

    /// `/dev/zero (deleted)` and `[anon_shmem:NAME]` are shared anonymous memory, `/memfd:NAME (deleted)` is of
    /// memfd_create(2), `/SYSVKEY (deleted)` of shmget(2), `/dev/shm/NAME` of shm_open(3) or sem_open(3).
    static func kind(ofName name: String) -> SharedMemoryImage.Kind? {
        if name.hasPrefix("/dev/zero") || name.hasPrefix("[anon_shmem:") { return .anonymous }
        if name.hasPrefix("/memfd:") { return .memfd }
        if name.hasPrefix("/SYSV") { return .systemV }
        if SharedMemoryFiles.contains(name) { return .file }
        return nil
    }

    init(_ snapshot: ServiceSnapshot) {
        for process in snapshot.processes {
            for mapping in process.mappings where mapping.inode != 0 && Self.kind(ofName: mapping.name) != nil {
                let range = "\(String(mapping.start, radix: 16))-\(String(mapping.end, radix: 16))"
                let key = Key(device: mapping.device, inode: mapping.inode)
                if places[key] == nil {
                    places[key] = (process.pid, "/proc/\(process.pid)/map_files/\(range)", mapping.name)
                }
            }
            for probe in process.descriptors
            where Self.kind(ofName: probe.link) != nil && probe.mode & S_IFMT == S_IFREG {
                let key = Key(device: probe.device, inode: probe.inode)
                if places[key] == nil {
                    places[key] = (probe.pid, "/proc/\(probe.pid)/fd/\(probe.number)", probe.link)
                }
            }
        }
    }

    /// nil when this inode is no shared memory object of the unit.
    mutating func index(device: UInt64, inode: UInt64) throws(KernelError) -> Int32? {
        let key = Key(device: device, inode: inode)
        if let index = indices[key] { return index }
        guard let place = places[key], let kind = Self.kind(ofName: place.name) else { return nil }
        let file = try FileDescriptor.open(place.path, O_RDONLY)
        var status = stat()
        let raw = file.raw
        try systemCall("fstat", on: place.path) { fstat(raw, &status) }
        var image = SharedMemoryImage(kind: kind, name: "", size: UInt64(status.st_size), mode: status.st_mode & 0o7777)
        switch kind {
        case .anonymous: break
        case .file:
            let visible = SharedMemoryUse.visiblePath(place.name, inode: inode, ofProcess: place.pid)
            image.isUnlinked = visible == nil
            image.name = visible ?? Self.present(place.name)
            (image.user, image.group) = (status.st_uid, status.st_gid)
        case .memfd:
            image.name = Self.memfdName(place.name)
            // F_GET_SEALS.
            image.seals = UInt32(try systemCall("fcntl", on: place.path) { ck_fcntl(raw, 1034, 0) })
        case .systemV:
            image.identifier = Int32(truncatingIfNeeded: inode)
            try Self.describeSegment(&image)
        }
        let index = Int32(images.count)
        images.append(image)
        sources.append(place.path)
        indices[key] = index
        return index
    }

    /// The name without the kernel's word that it is gone.
    private static func present(_ name: String) -> String {
        name.hasSuffix(SharedMemoryUse.deleted) ? String(name.dropLast(SharedMemoryUse.deleted.count)) : name
    }

    private static func memfdName(_ name: String) -> String { String(present(name).dropFirst("/memfd:".count)) }

    /// /proc/sysvipc/shm: key, shmid, perms (octal), …
    private static func describeSegment(_ image: inout SharedMemoryImage) throws(KernelError) {
        for line in try Files.readText("/proc/sysvipc/shm").split(separator: "\n").dropFirst() {
            let words = line.split(separator: " ")
            guard words.count > 3, Int32(words[1]) == image.identifier else { continue }
            image.key = Int32(words[0]) ?? 0
            image.mode = UInt32(words[2], radix: 8) ?? image.mode
            image.size = UInt64(words[3]) ?? image.size
        }
    }
}
