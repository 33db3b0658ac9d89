import CKernel
import Glibc
import Kernel

/// One file over one connection, read at a chosen pace and hashed while it arrives.
///
/// A line of JSON every 100 ms shows how far it is. SIGUSR1 prints one at once and starts a new window of
/// `window_silence_ms`; SIGUSR2 lifts the pace; SIGTERM ends it, unfinished.
final class Download {
    private let loop: EventLoop
    private let socket: FileDescriptor
    private let request: [UInt8]
    private let expected: String
    private var rate: Int
    private var reader = ResponseReader()
    private var hash = SHA256()
    private let started = Clock.monotonic
    /// From when the pace is counted, and what had been read by then.
    private var paceStart = Clock.monotonic
    private var bytes = 0
    private var sent = false
    /// Since when the reader wanted bytes and had none: the server's silence.
    private var hungrySince: Int64?
    private var longest: Int64 = 0
    private var longestInWindow: Int64 = 0

    init(_ options: Options) throws {
        loop = try EventLoop()
        let endpoint = try Endpoint(
            host: options.text("host"), port: options.number("port", default: 80))
        request = endpoint.request(try options.text("path", default: "/"))
        expected = try options.text("expect-sha256", default: "").lowercased()
        rate = try options.number("rate", default: 0)
        socket = try endpoint.connect()
        try loop.watch(socket.raw, EPOLLOUT.rawValue, tag: 0)
    }

    /// Runs to the end of the body; returns the exit status.
    func run() throws -> Int32 {
        var nextReport = started
        var failure: String?
        while true {
            let now = Clock.monotonic
            if now >= nextReport {
                report("progress", failure: nil)
                nextReport = now + 100_000_000
            }
            let allowance = budget(now)
            if sent { try loop.watch(socket.raw, allowance > 0 ? EPOLLIN.rawValue : 0, tag: 0) }
            let pause = allowance > 0 ? nextReport - now : min(nextReport - now, 5_000_000)
            let ready = try loop.wait(nanoseconds: pause)
            if ready.contains(EventLoop.signalTag) { failure = handleSignals() }
            if failure == nil, ready.contains(0) { failure = try advance(allowance) }
            if failure != nil || isComplete { break }
        }
        return finish(failure)
    }

    private var isComplete: Bool { sent && reader.contentLength > 0 && reader.received >= reader.contentLength }

    /// How many bytes may be read now; at least a sensible piece or none.
    private func budget(_ now: Int64) -> Int {
        guard rate > 0 else { return 262_144 }
        let allowed = Int(Double(rate) * Double(now - paceStart) / 1e9) - bytes
        return allowed < 2048 ? 0 : min(allowed, 262_144)
    }

    private func handleSignals() -> String? {
        for number in loop.takeSignals() {
            switch number {
            case SIGUSR1:
                report("window", failure: nil)
                longestInWindow = 0
            case SIGUSR2: rate = 0
            default: return "ended by signal \(number)"
            }
        }
        return nil
    }

    /// Sends the request or reads a piece; returns why it cannot go on.
    private func advance(_ allowance: Int) throws -> String? {
        if !sent {
            do throws(KernelError) { try socket.writeAll(request) } catch { return "\(error)" }
            sent = true
            paceStart = Clock.monotonic
            hungrySince = paceStart
            return nil
        }
        guard allowance > 0 else { return peerError() }
        let piece: [UInt8]
        do throws(KernelError) {
            piece = try socket.read(upTo: allowance)
        } catch {
            guard error.code == .again else { return "\(error)" }
            if hungrySince == nil { hungrySince = Clock.monotonic }
            return nil
        }
        fed()
        guard !piece.isEmpty else {
            return "the server closed after \(reader.received) of \(reader.contentLength) bytes"
        }
        bytes += piece.count
        var hash = self.hash
        let progress = reader.consume(piece[...]) { hash.update($0) }
        self.hash = hash
        if case .broken(let why) = progress { return why }
        if reader.status != 200 { return "status \(reader.status)" }
        // Empty now although the pace allows more: from here on it is the server that is silent.
        if piece.count < allowance { hungrySince = Clock.monotonic }
        return nil
    }

    private func fed() {
        guard let since = hungrySince else { return }
        longest = max(longest, Clock.monotonic - since)
        longestInWindow = max(longestInWindow, Clock.monotonic - since)
        hungrySince = nil
    }

    /// Only an error or a hang-up wakes a socket that is not watched for reading.
    private func peerError() -> String? {
        var code: Int32 = 0
        var length = socklen_t(4)
        getsockopt(socket.raw, SOL_SOCKET, SO_ERROR, &code, &length)
        return code == 0 ? nil : "recv: \(Errno(rawValue: code))"
    }

    private func line(_ event: String) -> JSONLine {
        var line = JSONLine()
        let silence = hungrySince.map { Clock.monotonic - $0 } ?? 0
        line.add("event", event)
        line.add("elapsed_ms", nanoseconds: Clock.monotonic - started)
        line.add("bytes", reader.received)
        line.add("total", reader.contentLength)
        line.add("window_silence_ms", nanoseconds: max(longestInWindow, silence))
        line.add("longest_silence_ms", nanoseconds: max(longest, silence))
        return line
    }

    private func report(_ event: String, failure: String?) { line(event).print() }

    private func finish(_ failure: String?) -> Int32 {
        var line = line("end")
        let digest = hash.finish()
        let good = failure == nil && (expected.isEmpty || digest == expected)
        line.add("sha256", digest)
        line.add("hash_ok", good)
        line.add("resets", failure.map { $0.contains("ECONNRESET") || $0.contains("EPIPE") } == true ? 1 : 0)
        line.add("error", failure ?? (good ? "" : "SHA-256 differs from \(expected)"))
        line.print()
        return good ? 0 : 1
    }
}
