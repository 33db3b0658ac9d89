import CKernel
import Glibc

/// A tap interface that lives as long as this value (Documentation/networking/tuntap.rst).
///
/// Frames are read and written with a `struct virtio_net_hdr` of `headerLength` bytes in front, so that large
/// segments and unfinished check sums stay what they are.
public struct TapDevice: ~Copyable, Sendable {
    /// sizeof(struct virtio_net_hdr), linux/virtio_net.h.
    public static let headerLength = 10

    public let descriptor: FileDescriptor
    public let interface: NetworkInterface

    /// Makes the interface, down. `pattern` may contain one `%d`, which the kernel replaces with a free number.
    public init(pattern: String) throws(KernelError) {
        let file = try FileDescriptor.open("/dev/net/tun", O_RDWR | O_NONBLOCK)
        var request = [UInt8](repeating: 0, count: 40)
        for (index, byte) in pattern.utf8.prefix(Int(IFNAMSIZ) - 1).enumerated() { request[index] = byte }
        let flags: UInt16 = 0x0002 | 0x1000 | 0x4000  // IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, linux/if_tun.h
        request.withUnsafeMutableBytes { $0.storeBytes(of: flags, toByteOffset: 16, as: UInt16.self) }
        try systemCall("ioctl", on: "TUNSETIFF \(pattern)") {
            request.withUnsafeMutableBytes { ck_ioctl(file.raw, 0x4004_54ca, $0.baseAddress) }
        }
        let name = String(decoding: request.prefix { $0 != 0 }, as: UTF8.self)
        let interface = try NetworkInterface(named: name)
        var length = Int32(Self.headerLength)
        try systemCall("ioctl", on: "TUNSETVNETHDRSZ \(name)") { ck_ioctl(file.raw, 0x4004_54d8, &length) }
        descriptor = file
        self.interface = interface
    }

    /// Asks for the offloads the reader can take, TUNSETOFFLOAD: check sum, TSO4, TSO6, ECN and, where the kernel knows
    /// it (≥ 6.2), UDP segmentation. Returns whether the latter was accepted.
    @discardableResult
    public func enableOffloads() throws(KernelError) -> Bool {
        let basic: UInt = 0x01 | 0x02 | 0x04 | 0x08
        let segmentedDatagrams: UInt = 0x20 | 0x40
        do throws(KernelError) {
            try setOffloads(basic | segmentedDatagrams)
            return true
        } catch  where error.code == .invalidArgument {
            try setOffloads(basic)
            return false
        }
    }

    private func setOffloads(_ bits: UInt) throws(KernelError) {
        try systemCall("ioctl", on: "TUNSETOFFLOAD \(interface.name)") {
            ck_ioctl(descriptor.raw, 0x4004_54d0, UnsafeMutableRawPointer(bitPattern: bits))
        }
    }
}
