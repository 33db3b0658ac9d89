import CKernel
import Glibc

/// An AF_PACKET socket of one interface and one Ethernet type, packet(7): whole frames in and out.
public struct PacketSocket: ~Copyable, Sendable {
    public let descriptor: FileDescriptor
    public let interface: NetworkInterface

    /// `etherType` in host byte order, for example 0x0806 for ARP; frames this host sends are not received.
    public init(interface: NetworkInterface, etherType: UInt16) throws(KernelError) {
        let protocolNumber = etherType.bigEndian
        let raw = try systemCall("socket", on: "AF_PACKET on \(interface.name)") {
            socket(AF_PACKET, Int32(SOCK_RAW.rawValue) | ck_sock_cloexec() | ck_sock_nonblock(), Int32(protocolNumber))
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

    /// Sends one frame, Ethernet header included.
    public func send(_ frame: [UInt8]) throws(KernelError) {
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
        } catch where error.code == .again {
            return nil
        }
    }
}
