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

    /// The hardware address of whoever owns, or wants, the address according to this frame; nil if it is ours or the
    /// frame is about something else.
    static func claimant(_ address: VirtualAddress, in frame: [UInt8], besides own: [UInt8]) -> [UInt8]? {
        let source = Array(frame.dropFirst(6).prefix(6))
        guard frame.count >= 42, source != own else { return nil }
        if address.family == .ipv4 {
            guard frame[12] == 8, frame[13] == 6, Array(frame[14..<20]) == [0, 1, 8, 0, 6, 4] else { return nil }
            let hardware = Array(frame[22..<28])
            let sender = Array(frame[28..<32])
            let isProbe = sender == [0, 0, 0, 0] && Array(frame[38..<42]) == address.bytes
            return hardware != own && (sender == address.bytes || isProbe) ? hardware : nil
        }
        guard frame.count >= 78, frame[12] == 0x86, frame[13] == 0xdd, frame[20] == 58,
            Array(frame[62..<78]) == address.bytes
        else { return nil }
        let isProbe = frame[54] == 135 && frame[22..<38].allSatisfy { $0 == 0 }
        return frame[54] == 136 || isProbe ? source : nil
    }

    /// Lets only frames through in which the address's owner speaks: ARP with it as sender, or an advertisement of it.
    static func claimFilter(_ address: VirtualAddress) -> [PacketSocket.FilterInstruction] {
        func word(_ index: Int) -> UInt32 {
            address.bytes[index * 4..<index * 4 + 4].reduce(0) { $0 << 8 | UInt32($1) }
        }
        if address.family == .ipv4 { return PacketSocket.FilterInstruction.all([(28, 4, word(0))]) }
        return PacketSocket.FilterInstruction.all([
            (20, 1, 58), (54, 1, 136), (62, 4, word(0)), (66, 4, word(1)), (70, 4, word(2)), (74, 4, word(3)),
        ])
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
