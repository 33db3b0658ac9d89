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
        let own = try kernel { () throws(KernelError) in try interface.hardwareAddress() }
        let socket = try kernel { () throws(KernelError) in
            try PacketSocket(interface: interface, etherType: OwnershipFrames.etherType(address))
        }
        let question = OwnershipFrames.probe(address, from: own)
        for _ in 0..<probes {
            try kernel { () throws(KernelError) in try socket.send(question) }
            let end = Clock.monotonic + Int64(intervalMilliseconds) * 1_000_000
            while true {
                let left = (end - Clock.monotonic + 999_999) / 1_000_000
                guard left > 0 else { break }
                let frame = try kernel { () throws(KernelError) in try socket.receive(milliseconds: Int32(left)) }
                if let frame, let holder = OwnershipFrames.claimant(address, in: frame, besides: own) {
                    throw .conflict(address: address, interface: interface.name, holder: hardwareText(holder))
                }
            }
        }
    }
}
