import Glibc
import Kernel

/// A packet socket of one interface that hears and sends the ownership frames of one family, for all addresses there.
final class LinkSocket: Sendable {
    struct Key: Hashable {
        let interface: Int32
        let family: VirtualAddress.Family
        init(_ address: VirtualAddress, on interface: NetworkInterface) {
            self.interface = interface.index
            family = address.family
        }
    }

    let socket: PacketSocket
    /// The interface's, by which frames of our own are told from others'.
    let hardware: [UInt8]

    init(_ address: VirtualAddress, on interface: NetworkInterface) throws(AddressingError) {
        do throws(KernelError) {
            hardware = try interface.hardwareAddress()
            socket = try PacketSocket(interface: interface, etherType: OwnershipFrames.etherType(address))
        } catch {
            throw .kernel(error)
        }
    }

    /// Those that these addresses need, as far as there are none `known`.
    static func open(
        for places: [(VirtualAddress, NetworkInterface)], besides known: [Key: LinkSocket] = [:]
    ) throws(AddressingError) -> [Key: LinkSocket] {
        var links: [Key: LinkSocket] = [:]
        for (address, interface) in places {
            let key = Key(address, on: interface)
            if links[key] == nil, known[key] == nil { links[key] = try LinkSocket(address, on: interface) }
        }
        return links
    }

    /// Tells the link that this host has the address.
    func announce(_ address: VirtualAddress) throws(AddressingError) {
        try kernel { () throws(KernelError) in
            for frame in OwnershipFrames.announcements(address, from: hardware) { try socket.send(frame) }
        }
    }
}

/// Sends the frames of many addresses no faster than others take them: a thousand broadcast frames in a row overrun the
/// receive queue of each host on the link (net.core.netdev_max_backlog, 1000), and others' packets are lost there.
struct FramePace {
    /// Addresses whose frames may follow each other at once.
    private static let burst = 32
    private var count = 0

    /// Call after what was sent for an address: each `burst` times it takes a millisecond.
    mutating func step() {
        count += 1
        if count % Self.burst == 0 { _ = poll(nil, 0, 1) }
    }
}
