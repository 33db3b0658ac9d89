import CBPF
import CKernel
import CPrograms
import Glibc
import Kernel

/// A BPF object file loaded into the kernel through libbpf. Programs and maps go with this value unless something else
/// (a filter, a link, a pin) holds them.
///
/// Unchecked because libbpf's object is only read once it is loaded, which the initializer does.
struct ProgramObject: ~Copyable, @unchecked Sendable {
    private let handle: OpaquePointer
    private let name: String

    /// Loads the object. Maps named in `pinned` are taken from `directory` (on a bpf file system) if they are there,
    /// else made and pinned there, so that they outlive this process.
    init(_ object: program_bytes, name: String, pinning pinned: [String] = [], in directory: String = "")
        throws(AddressingError)
    {
        libbpf_set_print(nil)  // errors are returned with the verifier's text, not printed
        let capacity = 1 << 18
        let log = UnsafeMutablePointer<CChar>.allocate(capacity: capacity)
        log.initialize(repeating: 0, count: capacity)
        defer { log.deallocate() }
        var options = bpf_object_open_opts()
        options.sz = (MemoryLayout<bpf_object_open_opts>.offset(of: \.kernel_log_level) ?? 64) + 4
        options.kernel_log_buf = log
        options.kernel_log_size = capacity
        let opened: OpaquePointer? = name.withCString {
            options.object_name = $0
            return bpf_object__open_mem(object.start, object.length, &options)
        }
        guard let handle = opened else {
            throw .program(step: "open", object: name, why: Self.reason(ck_errno()), log: "")
        }
        do throws(AddressingError) {
            for map in pinned {
                guard let entry = bpf_object__find_map_by_name(handle, map) else {
                    throw .program(step: "find map \(map) in", object: name, why: "no such map", log: "")
                }
                let result = bpf_map__set_pin_path(entry, "\(directory)/\(map)")
                guard result == 0 else {
                    throw .program(step: "pin map \(map) of", object: name, why: Self.reason(-result), log: "")
                }
            }
            let result = bpf_object__load(handle)
            guard result == 0 else {
                throw .program(step: "load", object: name, why: Self.reason(-result), log: String(cString: log))
            }
        } catch {
            bpf_object__close(handle)
            throw error
        }
        self.handle = handle
        self.name = name
    }

    deinit { bpf_object__close(handle) }

    func program(_ program: String) throws(AddressingError) -> OpaquePointer {
        guard let found = bpf_object__find_program_by_name(handle, program) else {
            throw .program(step: "find program \(program) in", object: name, why: "no such program", log: "")
        }
        return found
    }

    /// A descriptor of the map that stays valid when this value is gone.
    func map(_ map: String) throws(AddressingError) -> ProgramMap {
        guard let found = bpf_object__find_map_by_name(handle, map) else {
            throw .program(step: "find map \(map) in", object: name, why: "no such map", log: "")
        }
        let raw = bpf_map__fd(found)
        return try kernel { () throws(KernelError) in
            let copy = try systemCall("fcntl", on: "map \(map)") { ck_fcntl(raw, F_DUPFD_CLOEXEC, 0) }
            return ProgramMap(name: map, descriptor: FileDescriptor(owning: copy))
        }
    }

    /// Attaches a program as a direct-action filter of `interface`, in one direction of clsact, under our own priority
    /// and handle: whatever else is attached there stays, and a filter of ours from before is replaced without a gap.
    func attach(_ program: String, to interface: NetworkInterface, ingress: Bool) throws(AddressingError) {
        let program = try self.program(program)
        let what = "tc \(ingress ? "ingress" : "egress") of \(interface.name)"
        var hook = bpf_tc_hook()
        hook.sz = Self.hookSize
        hook.ifindex = interface.index
        hook.attach_point = bpf_tc_attach_point(rawValue: 3)  // both directions: clsact itself
        var result = bpf_tc_hook_create(&hook)
        guard result == 0 || result == -EEXIST else {
            throw .program(step: "create clsact for", object: what, why: Self.reason(-result), log: "")
        }
        hook.attach_point = ingress ? BPF_TC_INGRESS : BPF_TC_EGRESS
        var options = bpf_tc_opts()
        options.sz = Self.optionsSize
        options.prog_fd = bpf_program__fd(program)
        options.flags = UInt32(BPF_TC_F_REPLACE.rawValue)
        options.handle = Self.filterHandle
        options.priority = Self.filterPriority
        result = bpf_tc_attach(&hook, &options)
        guard result == 0 else {
            let hint =
                result == -EINVAL || result == -EEXIST
                ? "; a filter of another kind may have priority \(Self.filterPriority): give it another" : ""
            throw .program(step: "attach to", object: what, why: Self.reason(-result) + hint, log: "")
        }
        let attached = options.prog_id
        options = bpf_tc_opts()
        options.sz = Self.optionsSize
        options.handle = Self.filterHandle
        options.priority = Self.filterPriority
        result = bpf_tc_query(&hook, &options)
        guard result == 0, options.prog_id == attached else {
            let why = result == 0 ? "another program is in our place" : Self.reason(-result)
            throw .program(step: "verify the filter on", object: what, why: why, log: "")
        }
    }

    /// Attaches a program to a cgroup by a link that is pinned at `path`, in the place of one that was pinned there.
    func attach(
        _ program: String, to cgroup: borrowing FileDescriptor, at cgroupPath: String, pinning path: String
    ) throws(AddressingError) {
        guard let link = bpf_program__attach_cgroup(try self.program(program), cgroup.raw) else {
            throw .program(
                step: "attach \(program) to", object: cgroupPath, why: Self.reason(ck_errno()), log: "")
        }
        // The pin keeps the link; without one, closing it here undoes the attachment.
        defer { _ = bpf_link__destroy(link) }
        let fresh = path + "_new"
        if Files.exists(fresh) { try kernel { () throws(KernelError) in try Files.remove(fresh) } }
        let result = bpf_link__pin(link, fresh)
        guard result == 0 else {
            throw .program(step: "pin the link of", object: path, why: Self.reason(-result), log: "")
        }
        try kernel { () throws(KernelError) in _ = try systemCall("rename", on: path) { rename(fresh, path) } }
    }

    /// Removes our filter from one direction of `interface`, and nothing else there. Repeatable.
    static func detach(from interface: NetworkInterface, ingress: Bool) throws(AddressingError) {
        libbpf_set_print(nil)
        var hook = bpf_tc_hook()
        hook.sz = Self.hookSize
        hook.ifindex = interface.index
        hook.attach_point = ingress ? BPF_TC_INGRESS : BPF_TC_EGRESS
        var options = bpf_tc_opts()
        options.sz = Self.optionsSize
        options.handle = filterHandle
        options.priority = filterPriority
        let result = bpf_tc_detach(&hook, &options)
        // Without a clsact there (EINVAL) or without our filter (ENOENT) there is nothing to remove.
        guard result == 0 || result == -ENOENT || result == -EINVAL else {
            let what = "tc \(ingress ? "ingress" : "egress") of \(interface.name)"
            throw .program(step: "remove our filter from", object: what, why: reason(-result), log: "")
        }
    }

    /// First, so that a filter which ends the classification cannot hide packets from the hold queue.
    static let filterPriority: UInt32 = 1
    /// Ours among filters of that priority: "mob".
    static let filterHandle: UInt32 = 0x6d6f62

    /// libbpf refuses a structure with other bytes than zero behind the last field it knows, and the padding of a
    /// fresh value is not zeroed in an optimised build: the size ends with the last field.
    static let hookSize = (MemoryLayout<bpf_tc_hook>.offset(of: \.parent) ?? 16) + 4
    static let optionsSize = (MemoryLayout<bpf_tc_opts>.offset(of: \.priority) ?? 24) + 4

    static func reason(_ code: Int32) -> String { Errno(rawValue: code).description }
}

/// Makes a directory for pins; it must lie on a bpf file system.
func preparePinDirectory(_ path: String) throws(AddressingError) {
    try kernel { () throws(KernelError) in try Files.makeDirectories(path, mode: 0o700) }
    var status = statfs()
    try kernel { () throws(KernelError) in _ = try systemCall("statfs", on: path) { statfs(path, &status) } }
    guard UInt32(truncatingIfNeeded: status.f_type) == 0xcafe_4a11 else {  // BPF_FS_MAGIC, linux/magic.h
        throw .program(
            step: "pin below", object: path, why: "not on a bpf file system; mount one: mount -t bpf bpf /sys/fs/bpf",
            log: "")
    }
}

/// A BPF map whose keys and values are plain structures.
struct ProgramMap: ~Copyable, Sendable {
    let name: String
    let descriptor: FileDescriptor

    /// nil when there is no such key.
    func value<Key: BitwiseCopyable, Value: BitwiseCopyable>(_ key: Key, empty: Value) throws(KernelError) -> Value? {
        var key = key
        var value = empty
        do throws(KernelError) {
            try systemCall("bpf", on: "lookup in map \(name)") {
                bpf_map_lookup_elem(descriptor.raw, &key, &value) == 0 ? Int32(0) : -1
            }
        } catch  where error.code == .noEntry {
            return nil
        }
        return value
    }

    /// All keys; `empty` is any value of their type.
    func keys<Key: BitwiseCopyable>(empty: Key) throws(KernelError) -> [Key] {
        var keys: [Key] = []
        var key = empty
        do throws(KernelError) {
            while true {
                var next = empty
                let isFirst = keys.isEmpty
                try systemCall("bpf", on: "keys of map \(name)") {
                    let result =
                        isFirst
                        ? bpf_map_get_next_key(descriptor.raw, nil, &next)
                        : bpf_map_get_next_key(descriptor.raw, &key, &next)
                    return result == 0 ? Int32(0) : -1
                }
                keys.append(next)
                key = next
            }
        } catch  where error.code == .noEntry {
            return keys
        }
    }

    func set<Key: BitwiseCopyable, Value: BitwiseCopyable>(_ key: Key, to value: Value) throws(KernelError) {
        var key = key
        var value = value
        try systemCall("bpf", on: "update of map \(name)") {
            bpf_map_update_elem(descriptor.raw, &key, &value, 0) == 0 ? Int32(0) : -1
        }
    }

    func remove<Key: BitwiseCopyable>(_ key: Key) throws(KernelError) {
        var key = key
        do throws(KernelError) {
            try systemCall("bpf", on: "delete in map \(name)") {
                bpf_map_delete_elem(descriptor.raw, &key) == 0 ? Int32(0) : -1
            }
        } catch  where error.code == .noEntry {}
    }
}
