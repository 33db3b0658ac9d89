import Kernel

/// The Ethernet frames by which hosts ask for and tell who owns an address: ARP (RFC 826, 5227) and IPv6 neighbour
/// discovery (RFC 4861).
enum OwnershipFrames {
    static let arp: UInt16 = 0x0806
    static let ipv6: UInt16 = 0x86dd
    private static let broadcast = [UInt8](repeating: 0xff, count: 6)

    static func etherType(_ address: VirtualAddress) -> UInt16 { address.family == .ipv4 ? arp : ipv6 }

    /// Asks whether anybody owns the address, without claiming it: ARP with sender 0 or a solicitation from `::`.
    static func probe(_ address: VirtualAddress, from hardware: [UInt8]) -> [UInt8] {
        if address.family == .ipv4 {
            return arpFrame(operation: 1, hardware, sender: [0, 0, 0, 0], target: address.bytes, [0, 0, 0, 0, 0, 0])
        }
        let group: [UInt8] = [0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff] + address.bytes[13...]
        return neighbourFrame(
            [135, 0, 0, 0, 0, 0, 0, 0] + address.bytes, source: [UInt8](repeating: 0, count: 16), destination: group,
            from: hardware)
    }

    /// Tells everybody that `hardware` owns the address. IPv4: a request and a reply whose target is the sender, for
    /// those who heed only one of them; IPv6: an unsolicited advertisement with the override flag.
    static func announcements(_ address: VirtualAddress, from hardware: [UInt8]) -> [[UInt8]] {
        if address.family == .ipv4 {
            return [1, 2].map {
                arpFrame(operation: $0, hardware, sender: address.bytes, target: address.bytes, hardware)
            }
        }
        let allNodes: [UInt8] = [0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
        let message: [UInt8] = [136, 0, 0, 0, 0x20, 0, 0, 0] + address.bytes + [2, 1] + hardware
        return [neighbourFrame(message, source: address.bytes, destination: allNodes, from: hardware)]
    }

    /// What somebody else says about an address.
    struct Claim: Equatable {
        let address: [UInt8]
        let hardware: [UInt8]
        /// He asks whether he may have it, and does not have it yet.
        let isProbe: Bool
    }

    /// The claim in a frame; nil if it is ours or the frame has none.
    static func claim(in frame: [UInt8], besides own: [UInt8]) -> Claim? {
        let source = Array(frame.dropFirst(6).prefix(6))
        guard frame.count >= 42, source != own else { return nil }
        if frame[12] == 8, frame[13] == 6 {
            let hardware = Array(frame[22..<28])
            guard Array(frame[14..<20]) == [0, 1, 8, 0, 6, 4], hardware != own else { return nil }
            let isProbe = frame[28..<32].allSatisfy { $0 == 0 }
            return Claim(
                address: Array(isProbe ? frame[38..<42] : frame[28..<32]), hardware: hardware, isProbe: isProbe)
        }
        guard frame.count >= 78, frame[12] == 0x86, frame[13] == 0xdd, frame[20] == 58 else { return nil }
        let isProbe = frame[54] == 135 && frame[22..<38].allSatisfy { $0 == 0 }
        guard frame[54] == 136 || isProbe else { return nil }
        return Claim(address: Array(frame[62..<78]), hardware: source, isProbe: isProbe)
    }

    /// Lets only frames through in which an owner of one of the addresses speaks: ARP with it as sender, or an
    /// advertisement of it. All are of one family; of many, some others come through as well.
    static func claimFilter(_ addresses: [VirtualAddress]) -> [PacketSocket.FilterInstruction] {
        let tails = Set(addresses.map { $0.bytes.suffix(4).reduce(0) { $0 << 8 | UInt32($1) } }).sorted()
        if addresses.first?.family == .ipv6 {
            return PacketSocket.FilterInstruction.all([(20, 1, 58), (54, 1, 136)], and: 74, in: tails)
        }
        return PacketSocket.FilterInstruction.all([], and: 28, in: tails)
    }

    private static func arpFrame(
        operation: UInt8, _ hardware: [UInt8], sender: [UInt8], target: [UInt8], _ targetHardware: [UInt8]
    ) -> [UInt8] {
        let header = broadcast + hardware + [0x08, 0x06]
        return header + [0, 1, 8, 0, 6, 4, 0, operation] + hardware + sender + targetHardware + target
    }

    private static func neighbourFrame(
        _ message: [UInt8], source: [UInt8], destination: [UInt8], from hardware: [UInt8]
    ) -> [UInt8] {
        var message = message
        let length = UInt8(message.count)
        let sum = InternetChecksum.of(source + destination + [0, 0, 0, length, 0, 0, 0, 58] + message)
        message[2] = UInt8(sum >> 8)
        message[3] = UInt8(sum & 0xff)
        // Hop limit 255 proves to receivers that no router forwarded it.
        let header = [0x60, 0, 0, 0, 0, length, 58, 255] + source + destination
        return [0x33, 0x33] + destination[12...] + hardware + [0x86, 0xdd] + header + message
    }
}

/// `52:54:00:12:34:56`.
func hardwareText(_ address: [UInt8]) -> String {
    address.map { byte in
        let digits = String(byte, radix: 16)
        return digits.count == 1 ? "0" + digits : digits
    }.joined(separator: ":")
}
