import CKernel
import Glibc
import Synchronization
import Testing

@testable import Addressing
@testable import Kernel

/// An established connection as TCP_REPAIR shows it: just enough for these tests, nothing unacknowledged.
private struct Connection {
    private enum Option {
        static let repair: Int32 = 19, queue: Int32 = 20, sequence: Int32 = 21, options: Int32 = 22
        static let timestamp: Int32 = 24, window: Int32 = 29, information: Int32 = 11, maximumSegment: Int32 = 2
        static let receive: UInt32 = 1, send: UInt32 = 2, none: UInt32 = 0
    }

    let sequences: [UInt32]  // receive, send
    let window: [UInt8]
    let timestamp: UInt32
    let segment: UInt32
    let scales: UInt32
    let unread: [UInt8]
    let peerPort: UInt16
    let takenAt: Int64

    private static func get(_ socket: Socket, _ option: Int32, _ count: Int) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        var length = socklen_t(count)
        try systemCall("getsockopt") { getsockopt(socket.descriptor.raw, 6, option, &bytes, &length) }
        return bytes
    }

    private static func word(_ bytes: [UInt8]) -> UInt32 { bytes.withUnsafeBytes { $0.loadUnaligned(as: UInt32.self) } }

    private static func set(_ socket: Socket, _ option: Int32, _ words: [UInt32]) throws {
        try systemCall("setsockopt", on: "TCP option \(option)") {
            words.withUnsafeBytes {
                setsockopt(socket.descriptor.raw, 6, option, $0.baseAddress, socklen_t($0.count))
            }
        }
    }

    /// Puts the socket into repair, for good, and reads it.
    init(taking socket: Socket) throws {
        try Self.set(socket, Option.repair, [1])
        var sequences: [UInt32] = []
        for queue in [Option.receive, Option.send] {
            try Self.set(socket, Option.queue, [queue])
            sequences.append(Self.word(try Self.get(socket, Option.sequence, 4)))
        }
        self.sequences = sequences
        try Self.set(socket, Option.queue, [Option.receive])
        do {
            unread = try socket.receive(1 << 20, flags: Int32(MSG_PEEK) | Int32(MSG_DONTWAIT))
        } catch let error as KernelError where error.code == .again {
            unread = []
        }
        try Self.set(socket, Option.queue, [Option.none])
        window = try Self.get(socket, Option.window, 20)
        timestamp = Self.word(try Self.get(socket, Option.timestamp, 4))
        takenAt = Clock.monotonic
        segment = Self.word(try Self.get(socket, Option.maximumSegment, 4))
        let scale = try Self.get(socket, Option.information, 104)[6]
        scales = UInt32(scale & 15) | UInt32(scale >> 4) << 16
        var peer = [UInt8](repeating: 0, count: 28)
        var length = socklen_t(28)
        try systemCall("getpeername") {
            peer.withUnsafeMutableBytes {
                getpeername(socket.descriptor.raw, $0.baseAddress!.assumingMemoryBound(to: sockaddr.self), &length)
            }
        }
        peerPort = UInt16(peer[2]) << 8 | UInt16(peer[3])
    }

    /// The same connection in this thread's namespace.
    func restore(_ local: VirtualAddress, _ port: UInt16, peer: VirtualAddress) throws -> Socket {
        let socket = try Socket(local.family, stream: true)
        try Self.set(socket, Option.repair, [1])
        try Self.set(socket, Option.queue, [Option.send])
        try Self.set(socket, Option.sequence, [sequences[1]])
        try Self.set(socket, Option.queue, [Option.receive])
        try Self.set(socket, Option.sequence, [sequences[0] &- UInt32(unread.count)])
        try Self.set(socket, Option.queue, [Option.none])
        try socket.bind(local, port)
        try socket.connect(peer, peerPort)
        // Options 2 MSS, 3 window scale, 4 SACK, 8 time stamps: struct tcp_repair_opt pairs.
        try Self.set(socket, Option.options, [2, segment, 3, scales, 4, 0, 8, 0])
        let elapsed = UInt32((Clock.monotonic - takenAt) / 1_000_000)
        try Self.set(socket, Option.timestamp, [timestamp &+ max(2, elapsed)])
        if !unread.isEmpty {
            try Self.set(socket, Option.queue, [Option.receive])
            try socket.send(unread)
            try Self.set(socket, Option.queue, [Option.none])
        }
        try systemCall("setsockopt", on: "TCP_REPAIR_WINDOW") {
            setsockopt(socket.descriptor.raw, 6, Option.window, window, 20)
        }
        try Self.set(socket, Option.repair, [0])
        return socket
    }
}

@Suite(.serialized) struct MovedConnectionTests {
    /// The purpose of it all: a connection goes to another host in the middle of a stream, and the client's kernel has
    /// nothing to repeat.
    @Test(arguments: [Network.vip4, Network.vip6])
    func aConnectionMovesWithoutARetransmission(_ address: VirtualAddress) throws {
        guard mayRun() else { return }
        let network = try Network()
        let (pinsA, pinsB) = (try PinDirectory(), try PinDirectory())
        let manager = AddressManager()
        func prepare(_ host: Namespace, _ pins: PinDirectory, _ mode: HoldMode) throws -> HoldQueue {
            try host.inside {
                let queue = try HoldQueue(pinDirectory: pins.path)
                try queue.prepare(Network.nic(), [address])
                try queue.setMode(address, mode)
                try manager.add(address, to: Network.nic())
                return queue
            }
        }
        let source = try prepare(network.a, pinsA, [])
        // Both have the address; the destination does not say so.
        let destination = try prepare(network.b, pinsB, [.hold, .silent])
        let listener = try network.a.inside { try Socket.listening(address, 7000) }
        let before = try network.client.inside { try Repetitions() }
        let peer = try network.client.inside { try Socket.connected(address, 7000) }
        var server = try listener.accept()
        let sender = Worker {
            for number in 0..<500 {
                try peer.send([UInt8]("line \(number)\n".utf8))
                usleep(2_000)  // the load's rhythm: a line every 2 ms
            }
            try peer.finish()
        }
        var received: [UInt8] = []
        while received.count < 1500 { received += try server.receive() }

        try source.setMode(address, [.hold, .silent])
        let start = Clock.monotonic
        let connection = try Connection(taking: server)
        usleep(80_000)  // what a move of processes takes
        let client = VirtualAddress(text: address.family == .ipv4 ? "10.9.0.9" : "fd09::9")!
        try network.b.inside {
            try destination.setMode(address, .hold)
            server = try connection.restore(address, 7000, peer: client)
            try Announcement.once(address, on: Network.nic())
        }
        let window = (Clock.monotonic - start) / 1_000_000
        var carried = 0
        while case let frames = try network.a.inside({ try source.drain(address, maxFrames: 64) }), !frames.isEmpty {
            carried += frames.count
            try network.b.inside { try destination.inject(address, frames) }
        }
        try network.b.inside { try destination.release(address) }
        received += try server.receiveToEnd()
        try sender.join()
        let after = try network.client.inside { try Repetitions() }
        print("held for \(window) ms, \(carried) frames carried; client: \(after - before)")
        let lines = String(decoding: received, as: UTF8.self).split(separator: "\n").map(String.init)
        #expect(lines == (0..<500).map { "line \($0)" })
        #expect(carried >= 10)
        #expect((after - before).areOnlyProbes, "\(after - before)")
        #expect(try network.neighbour(address) == "02:00:00:00:09:02")
    }
}
