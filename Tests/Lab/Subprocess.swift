import CKernel
import Glibc
import Kernel

/// Programs of the machine, started with posix_spawn(3): ip(8), unshare(1), nsenter(1), make(1).
enum Subprocess {
    /// Where a stream of the child goes.
    enum Stream {
        case inherit
        case null
        case file(String)
    }

    /// What every command of the lab gets; nothing of the caller's environment leaks but TERM.
    static var environment: [String] {
        var list = [
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "USER=root",
            "LOGNAME=root", "SHELL=/bin/sh", "LANG=C.UTF-8", "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0",
        ]
        if let term = getenv("TERM") { list.append("TERM=\(String(cString: term))") }
        return list
    }

    /// Starts `arguments[0]`, an absolute path.
    static func spawn(
        _ arguments: [String], input: Stream = .null, output: Stream, errors: Stream,
        environment: [String] = environment, newSession: Bool = false, commandIsChild: Bool = false
    ) throws -> LabProcess {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        add(input, 0, O_RDONLY, to: &actions)
        add(output, 1, O_WRONLY | O_CREAT | O_APPEND, to: &actions)
        add(errors, 2, O_WRONLY | O_CREAT | O_APPEND, to: &actions)
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var none = sigset_t()
        sigemptyset(&none)
        var all = sigset_t()
        sigfillset(&all)
        posix_spawnattr_setsigmask(&attributes, &none)
        posix_spawnattr_setsigdefault(&attributes, &all)
        // POSIX_SPAWN_SETSID of <spawn.h>, which glibc shows only under _GNU_SOURCE.
        let session: Int32 = newSession ? 0x80 : 0
        posix_spawnattr_setflags(
            &attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | Int32(session)))

        var pid: pid_t = 0
        let code = withCStrings(arguments) { argv in
            withCStrings(environment) { envp in
                posix_spawn(&pid, arguments[0], &actions, &attributes, argv, envp)
            }
        }
        guard code == 0 else {
            throw KernelError(call: "posix_spawn", object: arguments[0], code: Errno(rawValue: code))
        }
        return try LabProcess(
            pid: pid, command: arguments.joined(separator: " "), outputPath: output.path, errorPath: errors.path,
            commandIsChild: commandIsChild)
    }

    /// Runs a program of the machine to its end; throws with its own words when it fails.
    @discardableResult
    static func run(
        _ arguments: [String], environment: [String] = environment, allowFailure: Bool = false,
        timeout: Duration = .seconds(60)
    ) throws -> CommandResult {
        let scratch = try Scratch()
        let process = try spawn(
            arguments, output: .file(scratch.output), errors: .file(scratch.errors), environment: environment)
        return try finish(process, as: arguments.joined(separator: " "), allowFailure: allowFailure, timeout: timeout)
    }

    /// Waits, collects the output and, unless allowed, turns a failure into an error.
    static func finish(
        _ process: LabProcess, as name: String, allowFailure: Bool, timeout: Duration
    ) throws -> CommandResult {
        let status: ExitStatus
        do {
            status = try process.wait(timeout: timeout)
        } catch let error as LabError {
            let said = (process.output + process.errorOutput).trimmingWhitespace()
            process.kill()
            throw LabError("\(error); it said: \(said.isEmpty ? "nothing" : said)")
        }
        let result = CommandResult(status: status, output: process.output, errorOutput: process.errorOutput)
        guard allowFailure || status.succeeded else {
            let said = (result.errorOutput + result.output).trimmingWhitespace()
            throw LabError("`\(name)`: \(status)\(said.isEmpty ? "" : ": \(said)")")
        }
        return result
    }

    private static func add(
        _ stream: Stream, _ number: Int32, _ flags: Int32, to actions: inout posix_spawn_file_actions_t
    ) {
        switch stream {
        case .inherit: break
        case .null: posix_spawn_file_actions_addopen(&actions, number, "/dev/null", O_RDWR, 0)
        case .file(let path): posix_spawn_file_actions_addopen(&actions, number, path, flags, 0o600)
        }
    }

    /// Calls `body` with a null-terminated vector of C strings that live as long as the call.
    static func withCStrings<Result>(
        _ strings: [String], _ body: (UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>) -> Result
    ) -> Result {
        var pointers: [UnsafeMutablePointer<CChar>?] = strings.map { strdup($0) }
        pointers.append(nil)
        defer { for pointer in pointers { free(pointer) } }
        return pointers.withUnsafeMutableBufferPointer { body($0.baseAddress!) }
    }
}

extension Subprocess.Stream {
    var path: String? { if case .file(let path) = self { path } else { nil } }
}

/// Two fresh files without a name in any directory: nothing of them stays when this program is interrupted.
struct Scratch: ~Copyable {
    private let outputFile: FileDescriptor
    private let errorFile: FileDescriptor

    // Whoever opens such a path gets a file description of his own, also a child ahead of its exec.
    var output: String { "/proc/\(getpid())/fd/\(outputFile.raw)" }
    var errors: String { "/proc/\(getpid())/fd/\(errorFile.raw)" }

    init() throws(KernelError) { self.init(try Self.unnamedFile(), try Self.unnamedFile()) }

    private init(_ outputFile: consuming FileDescriptor, _ errorFile: consuming FileDescriptor) {
        self.outputFile = outputFile
        self.errorFile = errorFile
    }

    private static func unnamedFile() throws(KernelError) -> FileDescriptor {
        // The header leaves O_TMPFILE (open(2)) to _GNU_SOURCE; it is this bit with O_DIRECTORY.
        try FileDescriptor.open("/tmp", 0o20000000 | O_DIRECTORY | O_RDWR, mode: 0o600)
    }
}
