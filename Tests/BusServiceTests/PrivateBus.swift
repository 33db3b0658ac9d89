import Glibc
import Testing

@testable import BusService

/// The output and exit status of a shell command.
struct CommandResult {
    let output: String
    let status: Int32
}

func shell(_ command: String) throws -> CommandResult {
    let stream = try #require(popen("{ \(command); } 2>&1", "re"))
    var bytes: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 4096)
    while true {
        let count = fread(&buffer, 1, buffer.count, stream)
        if count == 0 { break }
        bytes += buffer.prefix(count)
    }
    let status = pclose(stream)
    return CommandResult(output: String(decoding: bytes, as: UTF8.self), status: (status >> 8) & 0xff)
}

/// The repository's root, found from this file.
let repositoryRoot = #filePath.split(separator: "/").dropLast(3).map { "/" + $0 }.joined()

/// The programs that were built beside the tests.
let programs: String = {
    let tests = CommandLine.arguments[0].split(separator: "/").dropLast().map { "/" + $0 }.joined()
    let candidates = [tests, repositoryRoot + "/.build/debug", repositoryRoot + "/.build/release"]
    return candidates.first { access($0 + "/mobilityctl", X_OK) == 0 } ?? tests
}()

/// A system bus of the reference implementation for this process and its children only, with the policy that is
/// installed. `DBUS_SYSTEM_BUS_ADDRESS` points to it until it goes.
final class PrivateBus {
    let directory: String
    private let daemon: Child

    init() throws {
        var template = Array("/tmp/mobility-bus-XXXXXX".utf8CString)
        directory = String(cString: try #require(mkdtemp(&template)))
        chmod(directory, 0o755)
        let configuration = directory + "/bus.conf"
        let file = try #require(fopen(configuration, "w"))
        fputs(Self.configuration(socket: directory + "/socket"), file)
        fclose(file)
        daemon = try Child(
            ["dbus-daemon", "--nofork", "--nopidfile", "--config-file=\(configuration)", "--print-address=3"],
            outputs: [3])
        // It writes its address once it listens.
        try #require(daemon.readLine() != nil, "dbus-daemon did not start")
        setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=\(directory)/socket", 1)
    }

    deinit {
        unsetenv("DBUS_SYSTEM_BUS_ADDRESS")
        unlink(directory + "/socket")
        unlink(directory + "/bus.conf")
        rmdir(directory)
    }

    /// What system.conf of D-Bus sets up, without services to activate.
    private static func configuration(socket: String) -> String {
        """
        <!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
         "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
        <busconfig>
          <type>system</type>
          <listen>unix:path=\(socket)</listen>
          <auth>EXTERNAL</auth>
          <policy context="default">
            <allow user="*"/>
            <deny own="*"/>
            <deny send_type="method_call"/>
            <allow send_type="signal"/>
            <allow send_requested_reply="true" send_type="method_return"/>
            <allow send_requested_reply="true" send_type="error"/>
            <allow receive_type="method_call"/>
            <allow receive_type="method_return"/>
            <allow receive_type="error"/>
            <allow receive_type="signal"/>
            <allow send_destination="org.freedesktop.DBus"/>
            <allow send_destination="org.freedesktop.PolicyKit1"/>
          </policy>
          <policy user="root">
            <allow own="org.freedesktop.PolicyKit1"/>
          </policy>
          <include>\(repositoryRoot)/dbus/org.mobilityd1.conf</include>
        </busconfig>
        """
    }

}

/// A program that runs beside the test; killed when the test lets it go.
final class Child {
    let pid: pid_t
    private let output: Int32
    private var status: Int32?

    /// Starts `arguments[0]`, found as the shell does, with `outputs` (descriptors of the child) read by `readLine`.
    init(_ arguments: [String], outputs: [Int32] = []) throws {
        var ends: [Int32] = [-1, -1]
        try #require(pipe(&ends) == 0)
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        for descriptor in outputs { posix_spawn_file_actions_adddup2(&actions, ends[1], descriptor) }
        var child: pid_t = 0
        let result = withStringVector(arguments) { posix_spawnp(&child, arguments[0], &actions, nil, $0, environ) }
        close(ends[1])
        pid = child
        output = ends[0]
        try #require(result == 0)
    }

    deinit {
        close(output)
        // Not SIGTERM: the threads of the test library block it, and the child inherited that.
        if status == nil {
            kill(pid, SIGKILL)
            waitpid(pid, nil, 0)
        }
    }

    /// The next line; nil at the end.
    func readLine() -> String? {
        var bytes: [UInt8] = []
        var byte: UInt8 = 0
        while read(output, &byte, 1) == 1 {
            if byte == UInt8(ascii: "\n") { return String(decoding: bytes, as: UTF8.self) }
            bytes.append(byte)
        }
        return bytes.isEmpty ? nil : String(decoding: bytes, as: UTF8.self)
    }

    /// The exit status, after its end.
    func wait() -> Int32 {
        var raw: Int32 = 0
        waitpid(pid, &raw, 0)
        status = raw
        return (raw >> 8) & 0xff
    }
}

/// Runs `body` in a thread of its own and hands out what it made once it is ready.
final class BusThread {
    private let stopBox: Mailbox<Int32>
    private var thread = pthread_t()

    private final class Start: Sendable {
        let body: @Sendable (Mailbox<Int32>, Mailbox<String>) -> Void
        let stopBox: Mailbox<Int32>
        let ready: Mailbox<String>
        init(
            _ body: @escaping @Sendable (Mailbox<Int32>, Mailbox<String>) -> Void, _ stopBox: Mailbox<Int32>,
            _ ready: Mailbox<String>
        ) {
            self.body = body
            self.stopBox = stopBox
            self.ready = ready
        }
    }

    /// `body` posts an empty string to its second argument when it serves, or why it cannot.
    init(_ body: @escaping @Sendable (Mailbox<Int32>, Mailbox<String>) -> Void) throws {
        stopBox = try Mailbox()
        let ready = try Mailbox<String>()
        let start = Unmanaged.passRetained(Start(body, stopBox, ready))
        let created = pthread_create(
            &thread, nil,
            { argument in
                guard let argument else { return nil }
                let start = Unmanaged<Start>.fromOpaque(argument).takeRetainedValue()
                start.body(start.stopBox, start.ready)
                return nil
            }, start.toOpaque())
        try #require(created == 0)
        var poller = pollfd(fd: ready.descriptor, events: Int16(POLLIN), revents: 0)
        try #require(poll(&poller, 1, 20_000) == 1)
        let why = ready.take().joined()
        try #require(why.isEmpty, "\(why)")
    }

    func stop() {
        stopBox.post(0)
        pthread_join(thread, nil)
    }
}
