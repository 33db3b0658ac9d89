import Kernel

/// One address of one interface as the kernel lists it.
public struct InterfaceAddress: Hashable, Sendable {
    public let interfaceIndex: Int32
    public let interface: String
    /// The address with the prefix length it was added with.
    public let address: VirtualAddress
}

/// The addresses of a network namespace at one moment. Listing them takes longer the more there are: who asks about
/// several asks one table.
public struct AddressTable: Sendable {
    public let addresses: [InterfaceAddress]
    private let exact: Set<Place>
    private let subnets: [InterfaceAddress]

    private struct Place: Hashable {
        let interface: Int32
        let bytes: [UInt8]
        let prefix: Int
    }

    init(_ addresses: [InterfaceAddress]) {
        self.addresses = addresses
        subnets = addresses.filter { $0.address.prefix < $0.address.family.bits }
        exact = Set(
            addresses.map { Place(interface: $0.interfaceIndex, bytes: $0.address.bytes, prefix: $0.address.prefix) })
    }

    /// Whether the interface holds exactly the address as `AddressManager.add` makes it.
    public func contains(_ address: VirtualAddress, on interface: NetworkInterface) -> Bool {
        exact.contains(Place(interface: interface.index, bytes: address.bytes, prefix: address.family.bits))
    }

    /// The host's own address that shares a subnet with `address` on that interface, if it has one.
    public func own(beside address: VirtualAddress, on interface: NetworkInterface) -> VirtualAddress? {
        subnets.filter {
            $0.interfaceIndex == interface.index
                && address.sharesPrefix(with: $0.address.bytes, bits: $0.address.prefix)
        }.max { $0.address.prefix < $1.address.prefix }?.address
    }

    /// The interface for `address`: the named one, else the one with a subnet that contains it (longest prefix wins).
    public func interface(for address: VirtualAddress, named name: String? = nil) throws(AddressingError)
        -> NetworkInterface
    {
        if let name { return try kernel { () throws(KernelError) in try NetworkInterface(named: name) } }
        let fitting = subnets.filter { address.sharesPrefix(with: $0.address.bytes, bits: $0.address.prefix) }
        guard let best = fitting.max(by: { $0.address.prefix < $1.address.prefix }) else {
            throw .noSubnet(address: address, seen: subnets.map { "\($0.address) on \($0.interface)" })
        }
        return try kernel { () throws(KernelError) in try NetworkInterface(index: best.interfaceIndex) }
    }
}
