import CKernel
import Glibc
import Kernel

/// Many connections that each ask, wait for the whole answer, and ask again.
///
/// SIGUSR1 prints a line and starts a new window of silences; SIGTERM ends it with the totals. A connection that the
/// server announces to close (nginx does so after `keepalive_requests`) is replaced and counted as `reconnects`.
final class Keepalive {
    private let loop: EventLoop
    private let endpoint: Endpoint
    private let request: [UInt8]
    private let interval: Int64
    private var connections: [Connection] = []
    private var total = Tally()
    private var window = Tally()
    private var lastAnswer = Clock.monotonic
    private var lastError = ""
    private let started = Clock.monotonic

    /// What is counted, for the whole run and for the window since the last report.
    struct Tally {
        var requests = 0
        var failed = 0
        var resets = 0
        var reconnects = 0
        /// Longest time that one connection waited for an answer, in ns.
        var silence: Int64 = 0
        /// Longest time in which no connection at all got one, in ns.
        var deafness: Int64 = 0
    }

    final class Connection {
        var socket: FileDescriptor?
        var reader = ResponseReader()
        /// When it connected or asked: it waits since then; nil while it rests.
        var waitingSince: Int64?
        var asked = false
        var next: Int64 = 0
    }

    init(_ options: Options) throws {
        loop = try EventLoop()
        endpoint = try Endpoint(host: options.text("host"), port: options.number("port", default: 80))
        request = endpoint.request(try options.text("path", default: "/"))
        interval = Int64(try options.number("interval-ms", default: 10)) * 1_000_000
        let count = try options.number("connections", default: 50)
        let now = Clock.monotonic
        for index in 0..<count {
            connections.append(Connection())
            // Spread over one interval, so that they do not all ask at one moment.
            connections[index].next = now + interval * Int64(index) / Int64(max(1, count))
        }
    }

    /// Runs until SIGTERM or SIGINT; returns the exit status.
    func run() throws -> Int32 {
        // From here on signals are taken and do not end it.
        print("start", total)
        while true {
            let now = Clock.monotonic
            var wake = now + 100_000_000
            for (index, connection) in connections.enumerated() where connection.waitingSince == nil {
                if connection.next <= now { begin(index) } else { wake = min(wake, connection.next) }
            }
            for tag in try loop.wait(nanoseconds: wake - now) {
                if tag == EventLoop.signalTag {
                    if handleSignals() { return finish() }
                } else {
                    advance(Int(tag))
                }
            }
        }
    }

    private func handleSignals() -> Bool {
        for number in loop.takeSignals() {
            guard number == SIGUSR1 else { return true }
            print("window", window)
            window = Tally()
        }
        return false
    }

    /// Connects or asks.
    private func begin(_ index: Int) {
        let connection = connections[index]
        connection.waitingSince = Clock.monotonic
        connection.reader = ResponseReader()
        connection.asked = false
        do throws(KernelError) {
            if connection.socket == nil {
                let socket = try endpoint.connect()
                try loop.watch(socket.raw, EPOLLOUT.rawValue, tag: UInt32(index))
                connection.socket = consume socket
            } else {
                try ask(connection, index)
            }
        } catch {
            fail(index, "\(error)", error.code.rawValue)
        }
    }

    private func ask(_ connection: Connection, _ index: Int) throws(KernelError) {
        guard let raw = connection.raw else { return }
        let request = self.request
        try systemCall("send", on: endpoint.host) {
            request.withUnsafeBytes { send(raw, $0.baseAddress, request.count, Int32(MSG_NOSIGNAL)) }
        }
        connection.asked = true
        try loop.watch(raw, EPOLLIN.rawValue, tag: UInt32(index))
    }

    /// The socket is ready: send the first request, or read.
    private func advance(_ index: Int) {
        let connection = connections[index]
        guard let raw = connection.raw else { return }
        do throws(KernelError) {
            if connection.waitingSince != nil, !connection.asked { return try ask(connection, index) }
            let piece = try Self.receive(raw, endpoint.host)
            guard connection.waitingSince != nil else {
                return fail(index, piece.isEmpty ? "closed while idle" : "bytes that nobody asked for", 0)
            }
            guard !piece.isEmpty else { return fail(index, "closed before the whole answer", 0) }
            switch connection.reader.consume(piece[...]) {
            case .more: break
            case .broken(let why): fail(index, why, 0)
            case .complete: answered(index)
            }
        } catch {
            if error.code != .again { fail(index, "\(error)", error.code.rawValue) }
        }
    }

    private static func receive(_ raw: Int32, _ host: String) throws(KernelError) -> [UInt8] {
        var buffer = [UInt8](repeating: 0, count: 65536)
        let count = try systemCall("recv", on: host) { recv(raw, &buffer, 65536, 0) }
        return Array(buffer.prefix(count))
    }

    private func answered(_ index: Int) {
        let connection = connections[index]
        guard connection.reader.status == 200 else {
            return fail(index, "status \(connection.reader.status)", 0)
        }
        let now = Clock.monotonic
        let deafness = now - lastAnswer
        count {
            $0.requests += 1
            $0.silence = max($0.silence, now - (connection.waitingSince ?? now))
            $0.deafness = max($0.deafness, deafness)
        }
        lastAnswer = now
        connection.waitingSince = nil
        // In random order: each rests for half to one and a half intervals.
        connection.next = now + Int64.random(in: interval / 2...interval * 3 / 2)
        if connection.reader.closes {
            count { $0.reconnects += 1 }
            drop(connection)
        }
    }

    private func fail(_ index: Int, _ why: String, _ code: Int32) {
        let connection = connections[index]
        let now = Clock.monotonic
        lastError = why
        count {
            $0.failed += 1
            if code == ECONNRESET || code == EPIPE { $0.resets += 1 }
            $0.silence = max($0.silence, now - (connection.waitingSince ?? now))
        }
        drop(connection)
        connection.waitingSince = nil
        connection.next = now + max(interval, 20_000_000)
    }

    private func drop(_ connection: Connection) {
        if let raw = connection.raw { loop.forget(raw) }
        connection.socket = nil
    }

    private func count(_ change: (inout Tally) -> Void) {
        change(&total)
        change(&window)
    }

    private func print(_ event: String, _ tally: Tally) {
        let now = Clock.monotonic
        // Who still waits counts as well.
        let waiting = connections.compactMap(\.waitingSince).map { now - $0 }.max() ?? 0
        var line = JSONLine()
        line.add("event", event)
        line.add("elapsed_ms", nanoseconds: now - started)
        line.add("connections", connections.count)
        line.add("requests", tally.requests)
        line.add("failed", tally.failed)
        line.add("resets", tally.resets)
        line.add("reconnects", tally.reconnects)
        line.add("longest_silence_ms", nanoseconds: max(tally.silence, waiting))
        line.add("longest_total_silence_ms", nanoseconds: max(tally.deafness, now - lastAnswer))
        line.add("error", lastError)
        line.print()
    }

    private func finish() -> Int32 {
        print("end", total)
        return total.failed == 0 ? 0 : 1
    }
}

extension Keepalive.Connection {
    var raw: Int32? {
        switch socket {
        case .some(let socket): socket.raw
        case .none: nil
        }
    }
}
