import CKernel
import Glibc

/// System V semaphores, message queues and segments, sysvipc(7).
public struct SystemVObject: Equatable, Sendable {
    public enum Kind: String, Sendable { case semaphores = "semaphore set", queue = "message queue", segment }
    public let kind: Kind
    public let key: Int32
    public let id: Int32
    public let creator: uid_t
    /// Processes that used it last; 0 for none.
    public let pids: [Int32]
}

extension SystemVObject {
    /// All objects of the ipc namespace of `pid`, ipc_namespaces(7).
    public static func all(ofNamespaceOf pid: Int32) throws(KernelError) -> [SystemVObject] {
        if try NamespaceKind.ipc.identity(of: pid) == NamespaceKind.ipc.identity(of: getpid()) { return try list() }
        let namespace = try NamespaceKind.ipc.open(of: pid).release()
        let result = try Promise<Result<[SystemVObject], KernelError>>()
        // A thread of its own changes the namespace of nobody else, and ends with it.
        try BlockingThread.start("ipc-namespace") {
            let namespace = FileDescriptor(owning: namespace)
            do throws(KernelError) {
                let raw = namespace.raw
                try systemCall("setns", on: "ipc namespace of \(pid)") {
                    ck_syscall(Int(SYS_setns), Int(raw), Int(NamespaceKind.ipc.flag), 0, 0, 0, 0)
                }
                result.fulfil(.success(try list()))
            } catch {
                result.fulfil(.failure(error))
            }
        }
        guard let outcome = result.wait() else { throw KernelError(call: "setns", object: "ipc", code: .timedOut) }
        return try outcome.get()
    }

    /// The calling thread's; proc_sysvipc(5).
    private static func list() throws(KernelError) -> [SystemVObject] {
        var objects: [SystemVObject] = []
        // semid_ds: key semid perms nsems uid gid cuid cgid …
        for row in try rows("sem", columns: 8) {
            let count = min(row[3], 32_000)
            var pids: Set<Int32> = []
            for number in 0..<max(count, 0) {
                // GETPID; a set that is removed meanwhile has none.
                let pid = ck_syscall(Int(SYS_semctl), Int(row[1]), Int(number), 11, 0, 0, 0)
                if pid > 0 { pids.insert(Int32(truncatingIfNeeded: pid)) }
            }
            objects.append(object(.semaphores, row, creator: row[6], pids: pids.sorted()))
        }
        // key msqid perms cbytes qnum lspid lrpid uid gid cuid …
        for row in try rows("msg", columns: 10) {
            objects.append(
                object(.queue, row, creator: row[9], pids: [row[5], row[6]].map(Int32.init(truncatingIfNeeded:))))
        }
        // key shmid perms size cpid lpid nattch uid gid cuid …
        for row in try rows("shm", columns: 10) {
            objects.append(
                object(.segment, row, creator: row[9], pids: [row[4], row[5]].map(Int32.init(truncatingIfNeeded:))))
        }
        return objects
    }

    private static func object(_ kind: Kind, _ row: [Int64], creator: Int64, pids: [Int32]) -> SystemVObject {
        SystemVObject(
            kind: kind, key: Int32(truncatingIfNeeded: row[0]), id: Int32(truncatingIfNeeded: row[1]),
            creator: uid_t(truncatingIfNeeded: creator), pids: pids)
    }

    private static func rows(_ name: String, columns: Int) throws(KernelError) -> [[Int64]] {
        try Files.readText("/proc/sysvipc/\(name)").split(separator: "\n").dropFirst().compactMap { line in
            let words = line.split(separator: " ").map { Int64($0) ?? 0 }
            return words.count >= columns ? words : nil
        }
    }
}
