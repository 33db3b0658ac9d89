import Glibc
import Kernel
import KernelCapture
import ProcessImage

/// What the kinds of TCP sockets share: numbers of <linux/tcp.h> and <net/tcp_states.h>, tcp(7).
enum TCP {
    static let established: UInt8 = 1, synSent: UInt8 = 2, synReceived: UInt8 = 3
    static let finWait1: UInt8 = 4, finWait2: UInt8 = 5, timeWait: UInt8 = 6
    static let closed: UInt8 = 7, closeWait: UInt8 = 8, lastAck: UInt8 = 9, listen: UInt8 = 10
    static let closing: UInt8 = 11
    static let connected: Set<UInt8> = [established, finWait1, finWait2, closeWait, lastAck, closing]
    /// The peer's FIN has been received, and takes one number of its sequence space.
    static let peerFinished: Set<UInt8> = [closeWait, lastAck, closing]
    /// Our FIN is queued or sent.
    static let finished: Set<UInt8> = [finWait1, finWait2, lastAck, closing]

    static let multipath: Int32 = 262

    /// Why and what to do where `SocketRecord.isSigned`.
    static let signed = "signs its segments (TCP-MD5 or TCP-AO) with keys that cannot be carried"
    static let unsign = "switch signatures off in the service"

    /// getsockopt(2) TCP_INFO, `struct tcp_info`.
    struct Information {
        var state: UInt8
        var options: UInt8
        var sendScale: UInt8
        var receiveScale: UInt8
        /// Of a listener: connections in its accept queue, and how many may be.
        var pending: UInt32
        var backlog: UInt32
        /// What the path is known to take, bytes of IP packet.
        var pathMTU: UInt32
        /// Smoothed, µs; 0 if none was measured.
        var roundTrip: UInt32
        var congestion: CongestionWindow

        init(of socket: borrowing FileDescriptor) throws(KernelError) {
            let bytes = try Socket.option(socket, SocketOption.tcp, 11, limit: 104)
            guard bytes.count >= 84 else {
                throw KernelError(call: "getsockopt", object: "TCP_INFO", code: .invalidArgument)
            }
            state = bytes[0]
            options = bytes[5]
            sendScale = bytes[6] & 15
            receiveScale = bytes[6] >> 4
            func word(_ offset: Int) -> UInt32 {
                (0..<4).reversed().reduce(UInt32(0)) { $0 << 8 | UInt32(bytes[offset + $1]) }
            }
            pending = word(24)
            backlog = word(28)
            pathMTU = word(60)
            roundTrip = word(68)
            congestion = CongestionWindow(segments: word(80), threshold: word(76))
        }
    }

    static func isStream(_ probe: DescriptorProbe) -> Bool {
        guard probe.isSocket(families: [AF_INET, AF_INET6], type: 1), let socket = probe.socket else { return false }
        return [0, 6, UInt16(multipath)].contains(socket.protocolNumber)
    }

    static func protocolNumber(_ probe: DescriptorProbe) -> Int32 {
        Int32(probe.socket?.protocolNumber ?? 6)
    }

    // MARK: Repair mode

    static let repair: Int32 = 19, repairQueue: Int32 = 20, queueSequence: Int32 = 21, repairOptions: Int32 = 22
    static let timestamp: Int32 = 24, repairWindow: Int32 = 29, maximumSegment: Int32 = 2
    static let noQueue: Int32 = 0, receiveQueue: Int32 = 1, sendQueue: Int32 = 2
    /// TCP_REPAIR_ON; TCP_REPAIR_OFF, which sends a window probe; TCP_REPAIR_OFF_NO_WP, which sends nothing.
    static let on: Int32 = 1, off: Int32 = 0, offSilently: Int32 = -1

    static func get(_ socket: borrowing FileDescriptor, _ name: Int32) throws(KernelError) -> UInt32 {
        UInt32(bitPattern: try Socket.integer(socket, SocketOption.tcp, name))
    }

    static func set(_ socket: borrowing FileDescriptor, _ name: Int32, _ value: Int32) throws(KernelError) {
        try Socket.setInteger(socket, SocketOption.tcp, name, value)
    }

    static func set(_ socket: borrowing FileDescriptor, _ name: Int32, _ value: UInt32) throws(KernelError) {
        try set(socket, name, Int32(bitPattern: value))
    }

    /// The whole of a queue of a socket in repair mode, in place.
    static func peek(
        _ socket: borrowing FileDescriptor, queue: Int32, count: Int
    ) throws(KernelError) -> [UInt8] {
        guard count > 0 else { return [] }
        try set(socket, repairQueue, queue)
        let result: Result<[UInt8], KernelError>
        do throws(KernelError) {
            // MSG_PEEK | MSG_DONTWAIT
            result = .success(try Socket.receive(socket, upTo: count, flags: 0x2 | 0x40))
        } catch  where error.code == .again {
            result = .success([])
        } catch {
            result = .failure(error)
        }
        try set(socket, repairQueue, noQueue)
        return try result.get()
    }
}

/// `struct tcp_repair_window` of <linux/tcp.h>.
struct TCPRepairWindow {
    var sendUpdateSequence: UInt32
    var sendWindow: UInt32
    var largestSendWindow: UInt32
    var receiveWindow: UInt32
    /// `rcv_wup`: what had been received when the window was last announced.
    var receiveAnnounced: UInt32

    init?(_ bytes: [UInt8]) {
        guard bytes.count == 20 else { return nil }
        func word(_ index: Int) -> UInt32 {
            (0..<4).reversed().reduce(UInt32(0)) { $0 << 8 | UInt32(bytes[index * 4 + $1]) }
        }
        sendUpdateSequence = word(0)
        sendWindow = word(1)
        largestSendWindow = word(2)
        receiveWindow = word(3)
        receiveAnnounced = word(4)
    }

    var bytes: [UInt8] {
        [sendUpdateSequence, sendWindow, largestSendWindow, receiveWindow, receiveAnnounced].flatMap { word in
            withUnsafeBytes(of: word) { Array($0) }
        }
    }
}
