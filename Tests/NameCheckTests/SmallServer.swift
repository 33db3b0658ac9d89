import Glibc
import Kernel

@testable import NameCheck

/// Type and data of a record.
struct RecordData: Sendable {
    let type: UInt16
    let data: [UInt8]

    init(_ type: UInt16, _ data: [UInt8]) {
        self.type = type
        self.data = data
    }
}

/// How the server treats a question.
enum Reply: Sendable {
    case records([RecordData])
    /// An alias to the second name, whose records follow.
    case alias(String, [RecordData])
    case code(UInt8)
    /// By UDP only the truncation bit; the records by TCP.
    case large([RecordData])
    /// A forged identity first, then the records.
    case forgedFirst([RecordData])
    case silence
    case garbage
}

/// A DNS server on 127.0.0.1 that answers by a table of `name TYPE`; everything else does not exist.
final class SmallServer: Sendable {
    let address: SocketAddress
    private let datagrams: FileDescriptor
    private let streams: FileDescriptor
    private let table: [String: Reply]

    init(_ table: [String: Reply]) throws {
        self.table = table
        streams = try InternetSocket.make(family: AF_INET, type: InternetSocket.stream)
        try InternetSocket.bind(streams, to: SocketAddress("127.0.0.1", port: 0)!)
        try InternetSocket.listen(streams, backlog: 4)
        address = try InternetSocket.localAddress(streams)!
        datagrams = try InternetSocket.make(family: AF_INET, type: InternetSocket.datagram)
        try InternetSocket.bind(datagrams, to: address)
        let (udp, tcp) = (dup(datagrams.raw), dup(streams.raw))
        try start { Self.serveDatagrams(udp, table) }
        try start { Self.serveStreams(tcp, table) }
    }

    deinit {
        // Wakes both threads.
        shutdown(datagrams.raw, Int32(SHUT_RDWR))
        shutdown(streams.raw, Int32(SHUT_RDWR))
    }

    private static func serveDatagrams(_ raw: Int32, _ table: [String: Reply]) {
        defer { close(raw) }
        var buffer = [UInt8](repeating: 0, count: 4096)
        while true {
            var from = sockaddr_in()
            var length = socklen_t(MemoryLayout<sockaddr_in>.size)
            var entry = pollfd(fd: raw, events: Int16(POLLIN), revents: 0)
            guard poll(&entry, 1, 20_000) > 0 else { return }
            let count = withUnsafeMutablePointer(to: &from) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { recvfrom(raw, &buffer, 4096, 0, $0, &length) }
            }
            if count <= 12 { return }
            for answer in answers(Array(buffer[..<count]), table, datagram: true) {
                _ = withUnsafeMutablePointer(to: &from) {
                    $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                        sendto(raw, answer, answer.count, 0, $0, length)
                    }
                }
            }
        }
    }

    private static func serveStreams(_ raw: Int32, _ table: [String: Reply]) {
        defer { close(raw) }
        while true {
            var entry = pollfd(fd: raw, events: Int16(POLLIN), revents: 0)
            guard poll(&entry, 1, 20_000) > 0 else { return }
            let client = accept(raw, nil, nil)
            if client < 0 { return }
            defer { close(client) }
            var buffer = [UInt8](repeating: 0, count: 4096)
            let count = recv(client, &buffer, 4096, 0)
            guard count > 14 else { continue }
            for answer in answers(Array(buffer[2..<count]), table, datagram: false) {
                // In two pieces, as a network may cut it.
                let framed = [UInt8(answer.count >> 8), UInt8(answer.count & 255)] + answer
                send(client, framed, 5, 0)
                send(client, Array(framed[5...]), framed.count - 5, 0)
            }
        }
    }

    private static func answers(_ query: [UInt8], _ table: [String: Reply], datagram: Bool) -> [[UInt8]] {
        var cursor = DNSCursor(query)
        guard (try? cursor.skipHeader()) != nil, let name = try? cursor.name(), let type = try? cursor.word() else {
            return []
        }
        let label = RecordType(rawValue: type)?.label ?? "?"
        let question = Array(query[12...])
        func message(_ code: UInt8, _ body: [UInt8] = [], count: UInt8 = 0, cut: Bool = false) -> [UInt8] {
            [query[0], query[1], cut ? 0x83 : 0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0] + question + body
        }
        func record(_ owner: [UInt8], _ type: UInt16, _ data: [UInt8]) -> [UInt8] {
            owner + [UInt8(type >> 8), UInt8(type & 255), 0, 1, 0, 0, 0, 60, UInt8(data.count >> 8)]
                + [UInt8(data.count & 255)] + data
        }
        /// A pointer to the question's name.
        let pointer: [UInt8] = [0xc0, 12]
        func full(_ records: [RecordData]) -> [UInt8] {
            message(0, records.flatMap { record(pointer, $0.type, $0.data) }, count: UInt8(records.count))
        }
        switch table["\(name) \(label)"] {
        case nil: return [message(3)]
        case .code(let code): return [message(code)]
        case .records(let records): return [full(records)]
        case .large(let records): return [datagram ? message(0, cut: true) : full(records)]
        case .alias(let target, let records):
            let wire = DomainName(target)!.wire
            let body = record(pointer, 5, wire) + records.flatMap { record(wire, $0.type, $0.data) }
            return [message(0, body, count: UInt8(records.count + 1))]
        case .forgedFirst(let records):
            var forged = full([RecordData(1, [6, 6, 6, 6])])
            forged[0] ^= 0xff
            return [forged, full(records)]
        case .silence: return []
        case .garbage: return [[1, 2, 3]]
        }
    }
}

extension DNSCursor {
    mutating func skipHeader() throws(DNSFault) { for _ in 0..<6 { _ = try word() } }
}

private final class Body {
    let run: @Sendable () -> Void
    init(_ run: @escaping @Sendable () -> Void) { self.run = run }
}

/// Runs `run` on a thread of its own.
func start(_ run: @escaping @Sendable () -> Void) throws {
    var thread = pthread_t()
    let code = pthread_create(
        &thread, nil,
        {
            Unmanaged<Body>.fromOpaque($0!).takeRetainedValue().run()
            return nil
        }, Unmanaged.passRetained(Body(run)).toOpaque())
    if code != 0 { throw KernelError(call: "pthread_create", object: "", code: Errno(rawValue: code)) }
    pthread_detach(thread)
}
