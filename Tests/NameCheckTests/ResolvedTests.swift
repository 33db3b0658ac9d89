import CSystemd
import Glibc
import Kernel
import Testing

@testable import NameCheck

/// A dbus-daemon of its own with a service on it that speaks as org.freedesktop.resolve1 does.
private final class PrivateBus {
    let address: String
    private let process: pid_t

    init() throws {
        var ends: [Int32] = [0, 0]
        guard pipe(&ends) == 0 else { throw KernelError(call: "pipe", object: "", code: .noMemory) }
        let output = FileDescriptor(owning: ends[0])
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        posix_spawn_file_actions_adddup2(&actions, ends[1], 1)
        posix_spawn_file_actions_addclose(&actions, ends[0])
        let listen = "--address=unix:abstract=namecheck-test-\(getpid())"
        let words = ["dbus-daemon", "--session", "--nofork", "--print-address", listen]
        let arguments: [UnsafeMutablePointer<CChar>?] = words.map { word in strdup(word) } + [nil]
        var child = pid_t()
        let code = posix_spawnp(&child, "dbus-daemon", &actions, nil, arguments, environ)
        posix_spawn_file_actions_destroy(&actions)
        for argument in arguments { free(argument) }
        close(ends[1])
        guard code == 0 else { throw KernelError(call: "posix_spawnp", object: "", code: Errno(rawValue: code)) }
        process = child
        // One line, written when the daemon listens.
        address = String(decoding: try output.read(upTo: 4096).prefix { $0 != 10 }, as: UTF8.self)
    }

    deinit {
        // The test runner blocks SIGTERM, and the child inherits that.
        kill(process, SIGKILL)
        waitpid(process, nil, 0)
    }

    func open() throws -> OpaquePointer {
        var bus: OpaquePointer?
        guard sd_bus_new(&bus) >= 0, sd_bus_set_address(bus, address) >= 0, sd_bus_set_bus_client(bus, 1) >= 0,
            sd_bus_start(bus) >= 0, let bus
        else { throw KernelError(call: "sd_bus_start", object: address, code: .noEntry) }
        return bus
    }

    /// Owns the name and answers `calls` calls in a thread of its own.
    func serve(calls: Int) throws {
        let address = self.address
        let bus = try open()
        guard sd_bus_request_name(bus, "org.freedesktop.resolve1", 0) >= 0 else {
            throw KernelError(call: "sd_bus_request_name", object: address, code: .busy)
        }
        let bits = UInt(bitPattern: bus)
        try start {
            let bus = OpaquePointer(bitPattern: bits)
            var left = calls
            while left > 0 {
                var message: OpaquePointer?
                let progress = sd_bus_process(bus, &message)
                if progress < 0 { break }
                if message != nil, sd_bus_message_is_method_call(message, nil, "ResolveRecord") > 0 {
                    answer(message)
                    left -= 1
                }
                sd_bus_message_unref(message)
                if progress == 0, sd_bus_wait(bus, 10_000_000) <= 0 { break }
            }
            sd_bus_flush_close_unref(bus)
        }
    }
}

private func code(_ letter: Character) -> CChar { CChar(letter.asciiValue!) }

/// The name's first label says what to answer; wrong flags are an error of their own.
private func answer(_ call: OpaquePointer?) {
    var (interface, recordClass, type, flags) = (Int32(0), UInt16(0), UInt16(0), UInt64(0))
    var text: UnsafePointer<CChar>?
    sd_bus_message_read_basic(call, code("i"), &interface)
    sd_bus_message_read_basic(call, code("s"), &text)
    sd_bus_message_read_basic(call, code("q"), &recordClass)
    sd_bus_message_read_basic(call, code("q"), &type)
    sd_bus_message_read_basic(call, code("t"), &flags)
    let name = text.map { String(cString: $0) } ?? ""
    let prefix = "org.freedesktop.resolve1."
    let errors = [
        "missing": "DnsError.NXDOMAIN", "empty": "NoSuchRR", "slow": "QueryTimedOut", "broken": "DnsError.SERVFAIL",
    ]
    let label = String(name.split(separator: ".").first ?? "")
    if flags != 0x3800 || recordClass != 1 || interface != 0 || errors[label] != nil {
        var error = sd_bus_error()
        sd_bus_error_set(&error, prefix + (errors[label] ?? "WrongFlags"), "as asked")
        sd_bus_reply_method_error(call, &error)
        sd_bus_error_free(&error)
        return
    }
    let data: [UInt8] = type == 1 ? [10, 10, 10, 11] : DomainName("web.example.org")!.wire
    let record = DomainName(name)!.wire + [0, UInt8(type), 0, 1, 0, 0, 0, 60, 0, UInt8(data.count)] + data
    var reply: OpaquePointer?
    sd_bus_message_new_method_return(call, &reply)
    sd_bus_message_open_container(reply, code("a"), "(iqqay)")
    sd_bus_message_open_container(reply, code("r"), "iqqay")
    interface = 2
    sd_bus_message_append_basic(reply, code("i"), &interface)
    sd_bus_message_append_basic(reply, code("q"), &recordClass)
    sd_bus_message_append_basic(reply, code("q"), &type)
    sd_bus_message_append_array(reply, code("y"), record, record.count)
    sd_bus_message_close_container(reply)
    sd_bus_message_close_container(reply)
    sd_bus_message_append_basic(reply, code("t"), &flags)
    sd_bus_send(nil, reply, nil)
    sd_bus_message_unref(reply)
}

/// The wire form of ResolveRecord and the names of its errors, as systemd 252 documents them.
@Suite struct ResolvedTests {
    @Test func eachAnswerOfResolvedIsUnderstood() throws {
        let bus = try PrivateBus()
        #expect(ResolvedSource.connect(busAddress: bus.address) == nil)
        try bus.serve(calls: 6)
        let source = try #require(ResolvedSource.connect(busAddress: bus.address))
        let deadline = Deadline.after(milliseconds: 5000)
        func outcomes(_ name: String) throws -> NameFinding.Outcome? {
            let answer = source.ask(DomainName(name)!, .a, deadline: deadline)
            switch answer {
            case .records: return nil
            case .noSuchName: return .noSuchName
            case .noData: return .noData
            case .serverFailure(let why): return .serverFailure(why)
            case .timeout: return .timeout
            }
        }
        let findings = try NameChecker.check(
            name: "web.example.org", addresses: ["10.10.10.11"], sources: [source], deadline: deadline)
        #expect(findings.map(\.outcome) == [.match, .match])
        #expect(findings.map(\.source) == ["systemd-resolved", "systemd-resolved"])
        #expect(try outcomes("missing.example.org") == .noSuchName)
        #expect(try outcomes("empty.example.org") == .noData)
        #expect(try outcomes("slow.example.org") == .timeout)
        #expect(
            try outcomes("broken.example.org")
                == .serverFailure("org.freedesktop.resolve1.DnsError.SERVFAIL: as asked"))
    }
}
