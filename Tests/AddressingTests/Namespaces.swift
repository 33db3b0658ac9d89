import CKernel
import Glibc
import Synchronization
import Testing

@testable import Addressing
@testable import Kernel

/// Why a test that needs the kernel cannot run here; nil when it can. Printed once per test, so that a skip is seen.
let missingPrivilege: String? = getuid() == 0 ? nil : "not root: network namespaces cannot be made"

func mayRun(_ test: String = #function) -> Bool {
    guard let why = missingPrivilege else { return true }
    print("\(test): skipped, because \(why)")
    return false
}

struct CommandFailed: Error, CustomStringConvertible {
    let description: String
}

/// Runs a program to its end in the calling thread's network namespace and returns what it printed.
@discardableResult
func run(_ arguments: [String], allowFailure: Bool = false) throws -> String {
    var ends: [Int32] = [0, 0]
    try systemCall("pipe") { pipe(&ends) }
    let reading = FileDescriptor(owning: ends[0])
    _ = ck_fcntl(ends[0], F_SETFD, Int(FD_CLOEXEC))
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    posix_spawn_file_actions_adddup2(&actions, ends[1], 1)
    posix_spawn_file_actions_adddup2(&actions, ends[1], 2)
    posix_spawn_file_actions_addclose(&actions, ends[1])
    defer { posix_spawn_file_actions_destroy(&actions) }
    var argv: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) } + [nil]
    defer { argv.forEach { free($0) } }
    var pid = pid_t()
    let code = posix_spawnp(&pid, arguments[0], &actions, nil, &argv, environ)
    close(ends[1])
    guard code == 0 else { throw CommandFailed(description: "\(arguments): \(Errno(rawValue: code))") }
    let output = String(decoding: try reading.readToEnd(), as: UTF8.self)
    var status: Int32 = 0
    try systemCall("waitpid") { waitpid(pid, &status, 0) }
    if status != 0 && !allowFailure { throw CommandFailed(description: "\(arguments) ended with \(status): \(output)") }
    return output
}

/// A thread that can be waited for; it starts in the network namespace of the thread that makes it.
final class Worker: Sendable {
    private final class Job: Sendable {
        let body: @Sendable () throws -> Void
        let failure = Mutex<(any Error)?>(nil)
        init(_ body: @escaping @Sendable () throws -> Void) { self.body = body }
    }
    private let job: Job
    private let handle: Mutex<pthread_t?>

    init(_ body: @escaping @Sendable () throws -> Void) {
        let job = Job(body)
        var thread = pthread_t()
        pthread_create(
            &thread, nil,
            { argument in
                let job = Unmanaged<Job>.fromOpaque(argument!).takeRetainedValue()
                do { try job.body() } catch { job.failure.withLock { $0 = error } }
                return nil
            }, Unmanaged.passRetained(job).toOpaque())
        self.job = job
        handle = Mutex(thread)
    }

    func join() throws {
        if let thread = handle.withLock({ $0.take() }) { pthread_join(thread, nil) }
        if let failure = job.failure.withLock({ $0 }) { throw failure }
    }
}

/// A network namespace of its own name, gone with the value.
final class Namespace: Sendable {
    private static let counter = Atomic<Int>(0)
    let name: String
    private let descriptor: FileDescriptor

    init() throws {
        name = "mobt-\(getpid())-\(Self.counter.add(1, ordering: .relaxed).newValue)"
        try run(["ip", "netns", "add", name])
        descriptor = try FileDescriptor.open("/run/netns/\(name)", O_RDONLY)
        try run(["ip", "-n", name, "link", "set", "lo", "up"])
    }

    deinit { _ = try? run(["ip", "netns", "del", name]) }

    /// Runs `body` with the calling thread in this namespace. Nothing in `body` may suspend.
    func inside<Value: ~Copyable>(_ body: () throws -> Value) throws -> Value {
        let home = try FileDescriptor.open("/proc/thread-self/ns/net", O_RDONLY)
        try systemCall("setns", on: name) { ck_syscall(Int(SYS_setns), Int(descriptor.raw), 0x4000_0000, 0, 0, 0, 0) }
        defer { _ = ck_syscall(Int(SYS_setns), Int(home.raw), 0x4000_0000, 0, 0, 0, 0) }
        return try body()
    }

    func ip(_ arguments: String...) throws { try run(["ip", "-n", name] + arguments) }
    func ipOutput(_ arguments: String...) throws -> String { try run(["ip", "-n", name] + arguments) }
}

/// Hosts a, b and a client, each a namespace with an eth0 on one bridge: 10.9.0.1, .2 and .9 and fd09:: likewise.
final class Network: Sendable {
    let wire: Namespace
    let a: Namespace
    let b: Namespace
    let client: Namespace

    static let vip4 = VirtualAddress(text: "10.9.0.11/24")!
    static let vip6 = VirtualAddress(text: "fd09::11/64")!

    init() throws {
        wire = try Namespace()
        a = try Namespace()
        b = try Namespace()
        client = try Namespace()
        try wire.ip("link", "add", "br0", "type", "bridge")
        try wire.ip("link", "set", "br0", "up")
        for (host, number) in [(a, 1), (b, 2), (client, 9)] {
            try wire.ip(
                "link", "add", "p\(number)", "type", "veth", "peer", "name", "eth0", "address",
                "02:00:00:00:09:0\(number)", "netns", host.name)
            try wire.ip("link", "set", "p\(number)", "master", "br0", "up")
            try host.ip("link", "set", "eth0", "up")
            try host.ip("address", "add", "10.9.0.\(number)/24", "dev", "eth0")
            try host.ip("address", "add", "fd09::\(number)/64", "dev", "eth0", "nodad")
        }
    }

    /// The hardware address at which the client believes `address` to be.
    func neighbour(_ address: VirtualAddress) throws -> String? {
        let words = try client.ipOutput("neigh", "show", address.text, "dev", "eth0").split(separator: " ")
        guard let index = words.firstIndex(of: "lladdr"), index + 1 < words.count else { return nil }
        return String(words[index + 1])
    }

    static func nic() throws -> NetworkInterface { try NetworkInterface(named: "eth0") }
}

/// A bpf file system of the test's own.
final class PinDirectory: Sendable {
    private static let counter = Atomic<Int>(0)
    let path: String

    init() throws {
        path = "/tmp/mobt-bpf-\(getpid())-\(Self.counter.add(1, ordering: .relaxed).newValue)"
        let path = self.path
        try systemCall("mkdir", on: path) { mkdir(path, 0o700) }
        try systemCall("mount", on: path) { mount("bpf", path, "bpf", 0, nil) }
    }

    deinit {
        _ = umount(path)
        _ = rmdir(path)
    }
}

/// Waits up to five seconds for a condition that something else brings about.
func eventually(_ what: String, _ condition: () throws -> Bool) throws {
    let end = Clock.monotonic + 5_000_000_000
    while try !condition() {
        guard Clock.monotonic < end else { throw CommandFailed(description: "did not happen in 5 s: \(what)") }
        usleep(2_000)
    }
}
