import CKernel
import Glibc

/// An AF_PACKET socket of one interface and one Ethernet type, packet(7): whole frames in and out.
public struct PacketSocket: ~Copyable, Sendable {
    public let descriptor: FileDescriptor
    public let interface: NetworkInterface

    /// `etherType` in host byte order, for example 0x0806 for ARP; frames this host sends are not received.
    public init(interface: NetworkInterface, etherType: UInt16) throws(KernelError) {
        let protocolNumber = etherType.bigEndian
        // Of no protocol until it is bound: one that hears everything already is unhooked first, which waits for a
        // grace period of RCU (packet_do_bind in net/packet/af_packet.c).
        let raw = try systemCall("socket", on: "AF_PACKET on \(interface.name)") {
            socket(AF_PACKET, Int32(SOCK_RAW.rawValue) | ck_sock_cloexec() | ck_sock_nonblock(), 0)
        }
        let owner = FileDescriptor(owning: raw)
        // struct sockaddr_ll: family, protocol (network order), interface index, then what a receiver fills in.
        var address = [UInt8](repeating: 0, count: 20)
        address.withUnsafeMutableBytes {
            $0.storeBytes(of: UInt16(AF_PACKET), toByteOffset: 0, as: UInt16.self)
            $0.storeBytes(of: protocolNumber, toByteOffset: 2, as: UInt16.self)
            $0.storeBytes(of: interface.index, toByteOffset: 4, as: Int32.self)
        }
        try systemCall("bind", on: "AF_PACKET on \(interface.name)") {
            address.withUnsafeBytes {
                bind(raw, $0.baseAddress!.assumingMemoryBound(to: sockaddr.self), socklen_t($0.count))
            }
        }
        descriptor = owner
        self.interface = interface
    }

    /// One instruction of a classic socket filter, struct sock_filter of linux/filter.h.
    public struct FilterInstruction: Sendable {
        let code: UInt16
        let ifTrue: UInt8
        let ifFalse: UInt8
        let constant: UInt32

        public init(_ code: UInt16, _ constant: UInt32, ifTrue: UInt8 = 0, ifFalse: UInt8 = 0) {
            self.code = code
            self.ifTrue = ifTrue
            self.ifFalse = ifFalse
            self.constant = constant
        }

        /// Receives only frames in which each of these big-endian words (1 or 4 bytes at an offset) has its value, and
        /// the 4 bytes at another offset one of several. Jumps reach 255 instructions: of more than some 240 values
        /// each comes through, and whoever reads looks for himself.
        public static func all(
            _ words: [(offset: UInt32, bytes: Int, value: UInt32)], and offset: UInt32, in values: [UInt32]
        ) -> [FilterInstruction] {
            let values = words.count * 2 + values.count < 250 ? values : []
            let choice = values.isEmpty ? 0 : values.count + 1
            var program: [FilterInstruction] = []
            for (index, word) in words.enumerated() {
                program.append(.init(word.bytes == 1 ? 0x30 : 0x20, word.offset))  // BPF_LD | BPF_ABS
                let rest = (words.count - index - 1) * 2
                program.append(.init(0x15, word.value, ifFalse: UInt8(rest + choice + 1)))  // BPF_JEQ
            }
            if !values.isEmpty { program.append(.init(0x20, offset)) }
            for (index, value) in values.enumerated() {
                let rest = values.count - index - 1
                program.append(.init(0x15, value, ifTrue: UInt8(rest), ifFalse: rest == 0 ? 1 : 0))
            }
            return program + [.init(0x06, 0x40000), .init(0x06, 0)]  // BPF_RET: this many bytes
        }
    }

    /// Attaches a filter (SO_ATTACH_FILTER): the kernel wakes the reader for no other frame.
    public func attach(_ program: [FilterInstruction]) throws(KernelError) {
        try Self.attach(program, to: descriptor)
    }

    /// The same for any socket, socket(7).
    static func attach(
        _ program: [FilterInstruction], to socket: borrowing FileDescriptor
    ) throws(KernelError) {
        let raw = socket.raw
        try systemCall("setsockopt", on: "SO_ATTACH_FILTER of fd \(raw)") {
            program.withUnsafeBytes { code in
                // struct sock_fprog: the number of instructions, padding, a pointer to them.
                var description = (UInt64(program.count), UInt64(UInt(bitPattern: code.baseAddress)))
                return setsockopt(raw, SOL_SOCKET, SO_ATTACH_FILTER, &description, 16)
            }
        }
    }

    /// Sends one frame, Ethernet header included. Where more are under way than the socket's buffer takes, it waits for
    /// the wire, for a second at the most.
    public func send(_ frame: [UInt8]) throws(KernelError) {
        do throws(KernelError) { try sendNow(frame) } catch  where error.code == .again {
            var entry = pollfd(fd: descriptor.raw, events: Int16(POLLOUT), revents: 0)
            _ = poll(&entry, 1, 1000)
            try sendNow(frame)
        }
    }

    private func sendNow(_ frame: [UInt8]) throws(KernelError) {
        try systemCall("send", on: "AF_PACKET on \(interface.name)") {
            frame.withUnsafeBytes { Glibc.send(descriptor.raw, $0.baseAddress, $0.count, 0) }
        }
    }

    /// The next frame, or nil when none came within `milliseconds`.
    public func receive(milliseconds: Int32) throws(KernelError) -> [UInt8]? {
        var entry = pollfd(fd: descriptor.raw, events: Int16(POLLIN), revents: 0)
        guard try systemCall("poll", on: "AF_PACKET on \(interface.name)", { poll(&entry, 1, milliseconds) }) > 0 else {
            return nil
        }
        do throws(KernelError) {
            return try descriptor.read(upTo: 2048)
        } catch  where error.code == .again {
            return nil
        }
    }
}
