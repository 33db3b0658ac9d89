import Kernel

/// A packet that waits: a `struct virtio_net_hdr` of ten bytes (offloads: large segment, unfinished check sum) and the
/// Ethernet frame behind it, as bytes that may be carried to another host.
public struct HeldFrame: Sendable, Equatable {
    public let bytes: [UInt8]

    public init(bytes: [UInt8]) { self.bytes = bytes }

    /// The largest that the kernel makes: 64 KiB of IP packet and the headers before it.
    public static let maximumLength = TapDevice.headerLength + 14 + 65_536

    private static let frame = TapDevice.headerLength

    /// Why these bytes must not be put into this host's network stack as a packet for `address`; nil when they may.
    /// Whoever sent them, they can then do no more than any sender on the link can.
    func defect(for address: VirtualAddress) -> String? {
        let network = Self.frame + 14
        guard bytes.count <= Self.maximumLength else { return "longer than \(Self.maximumLength) bytes" }
        guard bytes.count >= network + (address.family == .ipv4 ? 20 : 40) else {
            return "\(bytes.count) bytes are no packet"
        }
        let type = UInt16(bytes[Self.frame + 12]) << 8 | UInt16(bytes[Self.frame + 13])
        guard type == (address.family == .ipv4 ? 0x0800 : 0x86dd) else {
            return "Ethernet type \(type) is another family"
        }
        guard bytes[network] >> 4 == (address.family == .ipv4 ? 4 : 6) else { return "the IP version does not fit" }
        let destination = network + (address.family == .ipv4 ? 16 : 24)
        guard Array(bytes[destination..<destination + address.bytes.count]) == address.bytes else {
            return "the destination is another address"
        }
        return offloadDefect()
    }

    /// virtio_net_hdr: flags, gso_type, then in host order hdr_len, gso_size, csum_start, csum_offset.
    private func offloadDefect() -> String? {
        let length = bytes.count - Self.frame
        let known: Set<UInt8> = [0, 1, 3, 4, 5]  // none, TCPv4, UDP, TCPv6, UDP segmentation
        guard known.contains(bytes[1] & 0x7f) else { return "unknown segmentation type \(bytes[1])" }
        if bytes[1] & 0x7f != 0 && word(4) == 0 { return "segmentation without a segment size" }
        if bytes[0] & 1 != 0 && Int(word(6)) + Int(word(8)) + 2 > length {
            return "the check sum lies outside the frame"
        }
        if Int(word(2)) > length { return "headers longer than the frame" }
        return nil
    }

    private func word(_ offset: Int) -> UInt16 { UInt16(bytes[offset]) | UInt16(bytes[offset + 1]) << 8 }

    /// Where it comes from, as a `VirtualAddress` has its bytes; for frames without a `defect` only.
    var source: ArraySlice<UInt8> {
        let network = Self.frame + 14
        return bytes[network] >> 4 == 4 ? bytes[(network + 12)..<(network + 16)] : bytes[(network + 8)..<(network + 24)]
    }

    /// The hardware address of the loopback interface.
    static let loopback = [UInt8](repeating: 0, count: 6)

    /// The same frame addressed to `hardware`: one that another host's NIC received is for that NIC, and the stack here
    /// would ignore it.
    func addressed(to hardware: [UInt8]) -> [UInt8] {
        var copy = bytes
        copy.replaceSubrange(Self.frame..<Self.frame + 6, with: hardware)
        return copy
    }
}
