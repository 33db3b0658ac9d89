import CKernel
import CNetlink
import Glibc
import Kernel

/// Adds and removes virtual addresses in the calling thread's network namespace, through rtnetlink(7). Blocking.
public struct AddressManager: Sendable {
    /// Marks our addresses (IFA_PROTO, kernel ≥ 5.18), so that an administrator sees whose they are.
    static let addressProtocol: UInt8 = 0x6d

    public init() {}

    /// All addresses of the namespace.
    public func list() throws(AddressingError) -> AddressTable {
        let socket = try RouteSocket()
        var cache: OpaquePointer?
        try socket.check(rtnl_addr_alloc_cache(socket.handle, &cache), "list", "addresses")
        defer { nl_cache_free(cache) }
        var names: [Int32: String] = [:]
        var found: [InterfaceAddress] = []
        var object = nl_cache_get_first(cache)
        while let current = object {
            object = nl_cache_get_next(current)
            guard let local = rtnl_addr_get_local(current), let start = nl_addr_get_binary_addr(local) else { continue }
            let bytes = [UInt8](UnsafeRawBufferPointer(start: start, count: Int(nl_addr_get_len(local))))
            guard let address = VirtualAddress(bytes: bytes, prefix: Int(rtnl_addr_get_prefixlen(current))) else {
                continue
            }
            let index = rtnl_addr_get_ifindex(current)
            // An interface may go between the listing and here; its addresses went with it.
            guard let name = names[index] ?? (try? NetworkInterface(index: index))?.name else { continue }
            names[index] = name
            found.append(InterfaceAddress(interfaceIndex: index, interface: name, address: address))
        }
        return AddressTable(found)
    }

    /// Whether the interface holds exactly the address as `add` makes it.
    public func isPresent(_ address: VirtualAddress, on interface: NetworkInterface) throws(AddressingError) -> Bool {
        try list().contains(address, on: interface)
    }

    /// Adds those that are not there; returns which these were. All or, when it throws, none of them.
    @discardableResult
    public func add(_ places: [(VirtualAddress, NetworkInterface)]) throws(AddressingError)
        -> [(VirtualAddress, NetworkInterface)]
    {
        let present = try list()
        let absent = places.filter { !present.contains($0.0, on: $0.1) }
        for (index, place) in absent.enumerated() {
            do throws(AddressingError) { try add(place.0, to: place.1) } catch {
                try? remove(Array(absent[..<index]))
                throw error
            }
        }
        return absent
    }

    /// Adds the address alone (/32 or /128) and without a route, so that the host's own subnet route serves its
    /// clients; IPv6 without duplicate address detection, which would make it unusable for a second, and deprecated
    /// (preferred lifetime 0), so that no other program's traffic selects it. An address already there is fine.
    public func add(_ address: VirtualAddress, to interface: NetworkInterface) throws(AddressingError) {
        let socket = try RouteSocket()
        let request = try RouteAddress(address, interface)
        rtnl_addr_set_flags(request.handle, address.family == .ipv6 ? 0x200 | 0x02 : 0x200)  // NOPREFIXROUTE, NODAD
        if address.family == .ipv6 {
            rtnl_addr_set_valid_lifetime(request.handle, UInt32.max)
            rtnl_addr_set_preferred_lifetime(request.handle, 0)
        }
        let what = "\(address.text) to \(interface.name)"
        var message: OpaquePointer?
        let flags = 0x400 | 0x200  // NLM_F_CREATE | NLM_F_EXCL
        try socket.check(rtnl_addr_build_add_request(request.handle, Int32(flags), &message), "add", what)
        defer { nlmsg_free(message) }
        nla_put_u8(message, 11, Self.addressProtocol)  // IFA_PROTO, which libnl 3.7 has no setter for
        let sent = nl_send_auto(socket.handle, message)
        if sent < 0 { try socket.check(sent, "add", what) }
        let answer = nl_wait_for_ack(socket.handle)
        if answer < 0, try isPresent(address, on: interface) { return }
        try socket.check(answer, "add", what)
    }

    /// Removes the address as `add` makes it, never another of the same bytes and a different prefix length. One that
    /// is not there is fine: release must be repeatable.
    public func remove(_ address: VirtualAddress, from interface: NetworkInterface) throws(AddressingError) {
        try remove([(address, interface)])
    }

    /// Removes several; one that cannot be removed does not keep the others.
    public func remove(_ places: [(VirtualAddress, NetworkInterface)]) throws(AddressingError) {
        let present = try list()
        let socket = try RouteSocket()
        var failure: AddressingError?
        for (address, interface) in places where present.contains(address, on: interface) {
            do throws(AddressingError) {
                let request = try RouteAddress(address, interface)
                let answer = rtnl_addr_delete(socket.handle, request.handle, 0)
                if answer < 0, try !isPresent(address, on: interface) { continue }
                try socket.check(answer, "remove", "\(address.text) from \(interface.name)")
            } catch {
                failure = failure ?? error
            }
        }
        if let failure { throw failure }
    }
}

/// A rtnetlink socket of libnl.
struct RouteSocket: ~Copyable {
    let handle: OpaquePointer

    init() throws(AddressingError) {
        guard let handle = nl_socket_alloc() else {
            throw .netlink(operation: "allocate", object: "a netlink socket", why: "out of memory")
        }
        let result = nl_connect(handle, 0)  // NETLINK_ROUTE
        if result < 0 {
            nl_socket_free(handle)
            throw .netlink(operation: "open", object: "a routing netlink socket", why: Self.reason(result))
        }
        self.handle = handle
    }

    deinit { nl_socket_free(handle) }

    func check(_ result: Int32, _ operation: String, _ object: String) throws(AddressingError) {
        guard result < 0 else { return }
        throw .netlink(operation: operation, object: object, why: Self.reason(result))
    }

    /// libnl's text for one of its negative error numbers.
    static func reason(_ result: Int32) -> String {
        nl_geterror(result).map { String(cString: $0) } ?? "error \(result)"
    }

    /// Packets that an interface could not take, IFLA_STATS64's tx_dropped.
    func droppedOnTransmit(_ interface: NetworkInterface) throws(AddressingError) -> UInt64 {
        var link: OpaquePointer?
        try check(rtnl_link_get_kernel(handle, interface.index, nil, &link), "query", interface.name)
        defer { rtnl_link_put(link) }
        return rtnl_link_get_stat(link, RTNL_LINK_TX_DROPPED)
    }
}

/// An address object of libnl: the address alone, on one interface.
struct RouteAddress: ~Copyable {
    let handle: OpaquePointer

    init(_ address: VirtualAddress, _ interface: NetworkInterface) throws(AddressingError) {
        guard let handle = rtnl_addr_alloc(),
            let local = nl_addr_build(address.family.number, address.bytes, address.bytes.count)
        else {
            throw .netlink(operation: "allocate", object: address.text, why: "out of memory")
        }
        nl_addr_set_prefixlen(local, Int32(address.family.bits))
        rtnl_addr_set_ifindex(handle, interface.index)
        let result = rtnl_addr_set_local(handle, local)
        nl_addr_put(local)
        guard result == 0 else {
            rtnl_addr_put(handle)
            throw .netlink(operation: "describe", object: address.text, why: RouteSocket.reason(result))
        }
        self.handle = handle
    }

    deinit { rtnl_addr_put(handle) }
}
