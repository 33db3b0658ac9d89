import Glibc
import Testing

@testable import Addressing
@testable import Kernel

/// Fragmented datagrams, RFC 791 section 3.2 and RFC 8200 section 4.5.
extension HoldQueueTests {
    private static let client4 = VirtualAddress(text: "10.9.0.9/24")!
    private static let client6 = VirtualAddress(text: "fd09::9/64")!

    private func big<Value: FixedWidthInteger>(_ value: Value) -> [UInt8] {
        withUnsafeBytes(of: value.bigEndian) { Array($0) }
    }

    /// The Ethernet frames of one datagram of `payload` from the client to port 7000, in two fragments.
    private func fragments(
        _ payload: [UInt8], to address: VirtualAddress, at hardware: [UInt8], identification: UInt16
    ) -> [[UInt8]] {
        let isIPv4 = address.family == .ipv4
        let from = (isIPv4 ? Self.client4 : Self.client6).bytes
        let length = UInt16(8 + payload.count)
        let pseudo = from + address.bytes + (isIPv4 ? [0, 17] + big(length) : big(UInt32(length)) + [0, 0, 0, 17])
        let header = big(UInt16(6000)) + big(UInt16(7000)) + big(length)
        let datagram = header + big(InternetChecksum.of(pseudo + header + [0, 0] + payload)) + payload
        let cut = 1200  // a multiple of 8
        return [(0, datagram[..<cut], true), (cut, datagram[cut...], false)].map { offset, part, hasMore in
            let network: [UInt8]
            if isIPv4 {
                let place = UInt16(offset / 8) | (hasMore ? 0x2000 : 0)
                var ip = [0x45, 0] + big(UInt16(20 + part.count)) + big(identification) + big(place)
                ip += [64, 17, 0, 0] + from + address.bytes
                ip.replaceSubrange(10..<12, with: big(InternetChecksum.of(ip)))
                network = ip
            } else {
                network =
                    [0x60, 0, 0, 0] + big(UInt16(8 + part.count)) + [44, 64] + from + address.bytes
                    + [17, 0] + big(UInt16(offset) | (hasMore ? 1 : 0)) + big(UInt32(identification))
            }
            return hardware + [2, 0, 0, 0, 9, 9] + big(UInt16(isIPv4 ? 0x0800 : 0x86dd)) + network + part
        }
    }

    private func server(_ address: VirtualAddress) throws -> Socket {
        let server = try Socket(address.family, stream: false)
        try server.bind(address, 7000)
        return server
    }

    private func fragmentsReceived(_ family: VirtualAddress.Family) throws -> Int {
        if family == .ipv4 { return try networkCounter("Ip", "ReasmReqds") }
        let line = try Files.readText("/proc/thread-self/net/snmp6").split(separator: "\n")
            .first { $0.hasPrefix("Ip6ReasmReqds") }
        return Int(line?.split(separator: "\t").last ?? "") ?? -1
    }

    private func type(_ address: VirtualAddress) -> UInt16 { address.family == .ipv4 ? 0x0800 : 0x86dd }
    private static let hostHardware: [UInt8] = [2, 0, 0, 0, 9, 1]

    /// The host that the first fragment has reached is the only one that can put the datagram together.
    @Test(arguments: [Network.vip4, Network.vip6])
    func aHoldDoesNotTearAFragmentedPacket(_ address: VirtualAddress) throws {
        guard mayRun() else { return }
        let network = try Network()
        let pins = try PinDirectory()
        let queue = try claim(address, on: network.a, pins)
        let server = try network.a.inside { () -> Socket in try self.server(address) }
        let wire = try network.client.inside { try PacketSocket(interface: Network.nic(), etherType: type(address)) }
        let payload = (0..<2000).map { UInt8(truncatingIfNeeded: $0 * 7) }
        let torn = fragments(payload, to: address, at: Self.hostHardware, identification: 1)
        let later = fragments(payload.reversed(), to: address, at: Self.hostHardware, identification: 2)

        try network.client.inside { try wire.send(torn[0]) }
        try eventually("the first fragment") { try network.a.inside { try fragmentsReceived(address.family) } == 1 }
        try network.a.inside { try queue.setMode(address, .hold) }
        try network.client.inside { try wire.send(torn[1]) }
        #expect(try server.receive() == payload)

        // One that begins during the hold waits as a whole.
        try network.client.inside { for fragment in later { try wire.send(fragment) } }
        try eventually("both fragments wait") {
            try network.a.inside { try queue.counters(address).heldPackets } == 2
        }
        #expect(throws: KernelError.self) { try server.receive(flags: Int32(MSG_DONTWAIT)) }
        try network.a.inside { try queue.release(address) }
        #expect(try server.receive() == payload.reversed())
    }

    /// A switch gives frames for a port that it does not know yet to all.
    @Test(arguments: [Network.vip4, Network.vip6])
    func framesForAnotherHostAreNotHeld(_ address: VirtualAddress) throws {
        guard mayRun() else { return }
        let network = try Network()
        let pins = try PinDirectory()
        let queue = try claim(address, on: network.a, pins)
        let wire = try network.client.inside { try PacketSocket(interface: Network.nic(), etherType: type(address)) }
        try network.a.inside { try queue.setMode(address, [.hold, .silent]) }
        for (number, hardware) in [[2, 0, 0, 0, 9, 0x77], Self.hostHardware].enumerated() {
            let frames = fragments(
                [UInt8](repeating: 1, count: 1400), to: address, at: hardware, identification: UInt16(number))
            try network.client.inside { for frame in frames { try wire.send(frame) } }
        }
        try eventually("the frames for this host") {
            try network.a.inside { try queue.counters(address).heldPackets } >= 2
        }
        #expect(try network.a.inside { try queue.counters(address).heldPackets } == 2)
    }
}
