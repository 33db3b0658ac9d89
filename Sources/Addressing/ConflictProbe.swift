import Kernel

/// Asks the link whether another host has an address, before a first claim (never in a move, when one has).
///
/// As in RFC 5227 for IPv4 and RFC 4862 for IPv6, but three probes within half a second instead of seven seconds:
/// the service waits for it, and the hosts concerned are on one switch.
public struct ConflictProbe: Sendable {
    /// Frames sent; RFC 5227's PROBE_NUM is 3.
    public var probes: Int
    /// From one frame to the next, and from the last to the verdict, in milliseconds.
    public var intervalMilliseconds: Int

    public init(probes: Int = 3, intervalMilliseconds: Int = 130) {
        self.probes = probes
        self.intervalMilliseconds = intervalMilliseconds
    }

    /// Returns when nobody answered; throws `.conflict` with the hardware address of the first who did. Blocking.
    public func run(_ address: VirtualAddress, on interface: NetworkInterface) throws(AddressingError) {
        try run([address], on: interface)
    }

    /// The same for several addresses at once, in the time that one takes.
    public func run(_ addresses: [VirtualAddress], on interface: NetworkInterface) throws(AddressingError) {
        let own = try kernel { () throws(KernelError) in try interface.hardwareAddress() }
        var channels: [Channel] = []
        for family in [VirtualAddress.Family.ipv4, .ipv6] {
            let mine = addresses.filter { $0.family == family }
            if let first = mine.first { channels.append(try Channel(mine, first, interface)) }
        }
        for _ in 0..<probes {
            for channel in channels { try channel.ask(from: own) }
            let end = Clock.monotonic + Int64(intervalMilliseconds) * 1_000_000
            // Each in turn to the end of the interval: what comes for the other waits in its socket.
            for channel in channels {
                if let (address, holder) = try channel.answer(until: end, besides: own) {
                    throw .conflict(address: address, interface: interface.name, holder: hardwareText(holder))
                }
            }
        }
    }

    /// The addresses of one family, and the socket on which they are asked for.
    private final class Channel {
        private let addresses: [[UInt8]: VirtualAddress]
        private let socket: PacketSocket

        init(
            _ addresses: [VirtualAddress], _ first: VirtualAddress, _ interface: NetworkInterface
        ) throws(AddressingError) {
            self.addresses = Dictionary(addresses.map { ($0.bytes, $0) }) { first, _ in first }
            socket = try kernel { () throws(KernelError) in
                try PacketSocket(interface: interface, etherType: OwnershipFrames.etherType(first))
            }
        }

        func ask(from own: [UInt8]) throws(AddressingError) {
            var pace = FramePace()
            for address in addresses.values {
                let question = OwnershipFrames.probe(address, from: own)
                try kernel { () throws(KernelError) in try socket.send(question) }
                pace.step()
            }
        }

        /// The first address that another host says it has; nil at `end` (CLOCK_MONOTONIC).
        func answer(
            until end: Int64, besides own: [UInt8]
        ) throws(AddressingError) -> (address: VirtualAddress, holder: [UInt8])? {
            while true {
                let left = max(0, (end - Clock.monotonic + 999_999) / 1_000_000)
                let frame = try kernel { () throws(KernelError) in try socket.receive(milliseconds: Int32(left)) }
                guard let frame else { return nil }
                if let claim = OwnershipFrames.claim(in: frame, besides: own), let address = addresses[claim.address] {
                    return (address, claim.hardware)
                }
            }
        }
    }
}
