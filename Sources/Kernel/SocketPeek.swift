import CKernel
import Glibc

/// Messages looked at in place, recvmsg(2) with MSG_PEEK: the service still gets them.
extension Socket {
    /// A message: its bytes, and whether descriptors travel with it.
    public struct Message: Sendable {
        public var bytes: [UInt8]
        public var hasDescriptors: Bool
        /// MSG_TRUNC or MSG_CTRUNC: the answer is not the whole message.
        public var isTruncated: Bool
    }

    /// A datagram as it arrived.
    public struct Datagram: Sendable {
        public var bytes: [UInt8]
        public var source: SocketName
        /// Where it was sent to, 16 bytes, IPv4 mapped; nil unless the socket was told to say so (ip(7) IP_PKTINFO).
        public var destination: [UInt8]?
        /// The kernel has joined several into one, all but the last of this size; udp(7) UDP_GRO.
        public var segmentSize: Int?
    }

    /// One message; nil when none waits. Descriptors that peeking installs in this process are closed again
    /// (unix(7): a peeked SCM_RIGHTS duplicates them).
    public static func peekMessage(
        _ socket: borrowing FileDescriptor, upTo count: Int
    ) throws(KernelError) -> Message? {
        guard let peeked = try peek(socket, upTo: count) else { return nil }
        var descriptors: [Int32] = []
        for item in Control.all(in: peeked.control) where item.level == 1 && item.type == 1 {
            descriptors += stride(from: 0, to: item.data.count - 3, by: 4).map(item.word(at:))
        }
        for descriptor in descriptors { _ = FileDescriptor(owning: descriptor) }
        return Message(
            bytes: peeked.bytes, hasDescriptors: !descriptors.isEmpty, isTruncated: peeked.flags & 0x28 != 0)
    }

    /// One datagram of an internet socket; nil when none waits.
    public static func peekDatagram(_ socket: borrowing FileDescriptor) throws(KernelError) -> Datagram? {
        // The largest that UDP has, and the largest that its offload makes of several.
        guard let peeked = try peek(socket, upTo: 65_536) else { return nil }
        var datagram = Datagram(bytes: peeked.bytes, source: SocketName(bytes: peeked.name))
        for item in Control.all(in: peeked.control) {
            switch (item.level, item.type) {
            // struct in_pktinfo: interface, local address, address of the header.
            case (0, 8) where item.data.count >= 12:
                datagram.destination = SocketName.ipv4(Array(item.data.suffix(4)), port: 0).address
            // struct in6_pktinfo: address, interface.
            case (41, 50) where item.data.count >= 20: datagram.destination = Array(item.data.prefix(16))
            case (17, 104) where item.data.count >= 4: datagram.segmentSize = Int(item.word(at: 0))
            default: break
            }
        }
        return datagram
    }

    private struct Peeked {
        var bytes: [UInt8]
        var name: [UInt8]
        var control: [UInt8]
        var flags: Int32
    }

    private static func peek(_ socket: borrowing FileDescriptor, upTo count: Int) throws(KernelError) -> Peeked? {
        let raw = socket.raw
        var bytes = [UInt8](repeating: 0, count: count)
        var control = [UInt8](repeating: 0, count: 1280)
        var name = [UInt8](repeating: 0, count: 128)
        var header = msghdr()
        do throws(KernelError) {
            let got = try systemCall("recvmsg", on: "fd \(raw)") {
                bytes.withUnsafeMutableBytes { data in
                    control.withUnsafeMutableBytes { ancillary in
                        name.withUnsafeMutableBytes { source in
                            var vector = iovec(iov_base: data.baseAddress, iov_len: count)
                            return withUnsafeMutablePointer(to: &vector) { pointer in
                                header.msg_name = source.baseAddress
                                header.msg_namelen = socklen_t(source.count)
                                header.msg_iov = pointer
                                header.msg_iovlen = 1
                                header.msg_control = ancillary.baseAddress
                                header.msg_controllen = ancillary.count
                                // MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC
                                return recvmsg(raw, &header, 0x2 | 0x40 | 0x4000_0000)
                            }
                        }
                    }
                }
            }
            bytes.removeLast(count - got)
        } catch  where error.code == .again {
            return nil
        }
        return Peeked(
            bytes: bytes, name: Array(name.prefix(Int(header.msg_namelen))),
            control: Array(control.prefix(header.msg_controllen)), flags: header.msg_flags)
    }

    /// One item of control data, cmsg(3): length (8), level (4), type (4), data, padded to 8.
    private struct Control {
        var level: Int32
        var type: Int32
        var data: [UInt8]

        func word(at offset: Int) -> Int32 { Self.word(data, offset) }

        private static func word(_ bytes: [UInt8], _ offset: Int) -> Int32 {
            (0..<4).reversed().reduce(Int32(0)) { $0 << 8 | Int32(bytes[offset + $1]) }
        }

        static func all(in bytes: [UInt8]) -> [Control] {
            var found: [Control] = []
            var offset = 0
            while offset + 16 <= bytes.count {
                let length = Int(word(bytes, offset))
                guard length >= 16, offset + length <= bytes.count else { break }
                found.append(
                    Control(
                        level: word(bytes, offset + 8), type: word(bytes, offset + 12),
                        data: Array(bytes[(offset + 16)..<(offset + length)])))
                offset += (length + 7) & ~7
            }
            return found
        }
    }
}
