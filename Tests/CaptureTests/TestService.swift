import CKernel
import Glibc
import Kernel

/// A program in a cgroup of its own, which tells about itself and obeys lines on its standard input.
final class TestService {
    let cgroup: Cgroup
    let pid: Int32
    private let input: FileDescriptor
    private let output: FileDescriptor
    private(set) var facts: [String: String] = [:]
    private var pending: [UInt8] = []

    /// `acceptingAll` leaves no connection in the listener's accept queue.
    init(acceptingAll: Bool = false) throws {
        let parent = Cgroup(path: try Cgroup.mountPoint())
        let cgroup = try parent.makeChild("mobilityd-test-\(getpid())-\(UInt32.random(in: 0..<UInt32.max))")
        self.cgroup = cgroup
        var toChild: [Int32] = [0, 0]
        var fromChild: [Int32] = [0, 0]
        try systemCall("pipe") { pipe(&toChild) }
        for raw in toChild { try systemCall("fcntl") { ck_fcntl(raw, F_SETFD, Int(FD_CLOEXEC)) } }
        try systemCall("pipe") { pipe(&fromChild) }
        for raw in fromChild { try systemCall("fcntl") { ck_fcntl(raw, F_SETFD, Int(FD_CLOEXEC)) } }
        let program = String(#filePath.dropLast("TestService.swift".count)) + "Programs/service.py"
        pid = try Self.spawn(
            ["/usr/bin/python3", program, cgroup.path] + (acceptingAll ? ["all"] : []), input: toChild[0],
            output: fromChild[1])
        close(toChild[0])
        close(fromChild[1])
        input = FileDescriptor(owning: toChild[1])
        output = FileDescriptor(owning: fromChild[0])
        try readFacts(until: "done")
    }

    static func spawn(_ words: [String], input: Int32, output: Int32) throws -> Int32 {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, input, 0)
        posix_spawn_file_actions_adddup2(&actions, output, 1)
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        // The test's threads block most signals.
        var none = sigset_t()
        sigemptyset(&none)
        posix_spawnattr_setsigmask(&attributes, &none)
        // POSIX_SPAWN_SETSID, POSIX_SPAWN_SETSIGMASK.
        posix_spawnattr_setflags(&attributes, 0x88)
        var arguments: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) } + [nil]
        defer { for argument in arguments { free(argument) } }
        var pid: pid_t = 0
        let code = posix_spawn(&pid, words[0], &actions, &attributes, &arguments, environ)
        guard code == 0 else { throw KernelError(call: "posix_spawn", object: words[0], code: Errno(rawValue: code)) }
        return pid
    }

    /// Reads `name=value` lines up to the one called `last`.
    func readFacts(until last: String) throws {
        while true {
            while let end = pending.firstIndex(of: 10) {
                let line = String(decoding: pending[..<end], as: UTF8.self)
                pending.removeFirst(end + 1)
                guard let equal = line.firstIndex(of: "=") else { continue }
                let name = String(line[..<equal])
                facts[name] = String(line[line.index(after: equal)...])
                if name == last { return }
            }
            let piece = try output.read(upTo: 4096)
            guard !piece.isEmpty else { throw KernelError(call: "read", object: "service", code: .noProcess) }
            pending += piece
        }
    }

    func numbers(_ name: String) -> [Int64] { (facts[name] ?? "").split(separator: ",").compactMap { Int64($0) } }
    func number(_ name: String) -> Int64 { numbers(name).first ?? -1 }

    func ask(until last: String) throws {
        try input.writeAll([UInt8]("report\n".utf8))
        try readFacts(until: last)
    }

    deinit {
        try? cgroup.kill()
        try? cgroup.thaw()
        var status: Int32 = 0
        waitpid(pid, &status, 0)
        try? cgroup.awaitEmpty()
        try? cgroup.remove()
    }
}
