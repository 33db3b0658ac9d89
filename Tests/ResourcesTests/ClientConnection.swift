import CKernel
import Glibc
import Kernel
import Testing

@testable import Resources

/// A server's connection in `a`, its client in `c`.
struct Connection: ~Copyable {
    var server: FileDescriptor
    let client: FileDescriptor
}

func wait(_ what: String, _ condition: () throws -> Bool) throws {
    let deadline = Clock.monotonic + 3_000_000_000
    while try !condition() {
        guard Clock.monotonic < deadline else { throw Failure(text: "never happened: \(what)") }
        poll(nil, 0, 1)
    }
}

func receiveAll(_ socket: borrowing FileDescriptor, _ count: Int) throws -> [UInt8] {
    var bytes: [UInt8] = []
    try Socket.setOption(socket, 1, 20, [5] + [UInt8](repeating: 0, count: 15))
    while bytes.count < count {
        let piece = try Socket.receive(socket, upTo: count - bytes.count)
        if piece.isEmpty { break }
        bytes += piece
    }
    return bytes
}

/// tcpi_total_retrans, at offset 100 of `struct tcp_info`.
func retransmissions(_ socket: borrowing FileDescriptor) throws -> UInt32 {
    let info = try Socket.option(socket, 6, 11, limit: 104)
    return info[100..<104].reversed().reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
}

func pattern(_ count: Int, _ seed: Int = 0) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: $0 * 31 + $0 >> 8 + seed) }
}

func connect(_ bench: borrowing SocketBench, _ family: Int32, port: UInt16 = 80) throws -> Connection {
    let address = SocketName.ip(
        family == AF_INET ? SocketBench.address4 : SocketBench.address6, port: port, family: family)
    let listener = try bench.inside("a") {
        let listener = try Socket.make(family, 1, 0)
        try Socket.setInteger(listener, 1, 2, 1)
        try Socket.bind(listener, address)
        try Socket.listen(listener, backlog: 16)
        return listener
    }
    let client = try bench.inside("c") { try Socket.make(family, 1, 0) }
    try Socket.connect(client, address)
    return Connection(server: try Socket.accept(listener), client: client)
}

/// Takes the server's end of a connection from the source, and gives `restore` its description with a changed record.
/// The destination has the address then.
func take(
    _ connection: inout Connection, _ bench: borrowing SocketBench, to restore: OwnRestore,
    changing change: (inout TCPConnection.Record) throws -> Void
) throws {
    let capture = OwnCapture()
    var image = try capture.describe(try probe(connection.server))
    var record = try Payload.decode(TCPConnection.Record.self, from: image, index: 0)
    try change(&record)
    image.payload = try Payload.encode(record, for: "the record")
    restore.image.descriptions = [image]
    connection.server = FileDescriptor(owning: -1)
    capture.commit()
    try bench.connectDestination()
}
