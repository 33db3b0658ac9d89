import CKernel
import Glibc
import Synchronization
import Testing

@testable import Addressing
@testable import Kernel

@Suite(.serialized) struct OwnershipTests {
    private let manager = AddressManager()

    @Test func addsAloneFindsAndRemoves() throws {
        guard mayRun() else { return }
        let network = try Network()
        let addresses = [Network.vip4, Network.vip6]
        try network.a.inside {
            for address in addresses {
                let nic = try manager.list().interface(for: address)
                #expect(nic.name == "eth0")
                #expect(try !manager.isPresent(address, on: nic))
                try manager.add(address, to: nic)
                try manager.add(address, to: nic)
                #expect(try manager.isPresent(address, on: nic))
            }
        }
        let listing = try network.a.ipOutput("-d", "address", "show", "dev", "eth0")
        #expect(listing.contains("10.9.0.11/32") && listing.contains("fd09::11/128"))
        #expect(listing.contains("deprecated") && listing.contains("nodad") && listing.contains("noprefixroute"))
        #expect(listing.contains("preferred_lft 0sec"))
        #expect(try network.a.inside { try addressesAreTagged() })
        #expect(try !network.a.ipOutput("route").contains("10.9.0.11"))

        // A client of the subnet reaches the address, though it has no subnet of its own.
        for address in addresses {
            let listener = try network.a.inside { try Socket.listening(address, 7000) }
            let peer = try network.client.inside { try Socket.connected(address, 7000) }
            try listener.accept().send([1, 2, 3])
            #expect(try peer.receive() == [1, 2, 3])
        }
        try network.a.inside {
            let nic = try Network.nic()
            for address in addresses {
                try manager.remove(address, from: nic)
                try manager.remove(address, from: nic)
                #expect(try !manager.isPresent(address, on: nic))
            }
            // The host's own address in the same subnet is another prefix length and stays.
            try manager.remove(VirtualAddress(text: "10.9.0.1/24")!, from: nic)
        }
        #expect(try network.a.ipOutput("address").contains("10.9.0.1/24"))
    }

    /// Whether the kernel's dump of addresses shows IFA_PROTO with our number, which iproute2 6.1 does not print.
    private func addressesAreTagged() throws -> Bool {
        let raw = try systemCall("socket") { socket(AF_NETLINK, Int32(SOCK_RAW.rawValue), 0) }
        let descriptor = FileDescriptor(owning: raw)
        // struct nlmsghdr: 24 bytes, RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP; struct ifaddrmsg of any family.
        try descriptor.writeAll([24, 0, 0, 0, 22, 0, 0x01, 0x03] + [UInt8](repeating: 0, count: 16))
        let answer = try descriptor.read(upTo: 65536) + descriptor.read(upTo: 65536)
        let attribute: [UInt8] = [5, 0, 11, 0, AddressManager.addressProtocol]
        return answer.indices.contains { answer[$0...].starts(with: attribute) }
    }

    @Test func namesTheSubnetsWhenNoneFits() throws {
        guard mayRun() else { return }
        let network = try Network()
        try network.a.inside {
            do {
                _ = try manager.list().interface(for: VirtualAddress(text: "172.30.0.1/24")!)
                Issue.record("found an interface")
            } catch let error as AddressingError {
                #expect("\(error)".contains("10.9.0.1/24 on eth0"))
                #expect("\(error)".contains("172.30.0.1"))
            }
            #expect(
                try manager.list().interface(for: VirtualAddress(text: "172.30.0.1/24")!, named: "eth0").name == "eth0")
            #expect(throws: AddressingError.self) { try manager.list().interface(for: Network.vip4, named: "eth9") }
        }
    }

    @Test(arguments: [Network.vip4, Network.vip6])
    func probeFindsAConflictAndPassesWithout(_ address: VirtualAddress) throws {
        guard mayRun() else { return }
        let network = try Network()
        try network.b.inside {
            let start = Clock.monotonic
            try ConflictProbe().run(address, on: Network.nic())
            let milliseconds = (Clock.monotonic - start) / 1_000_000
            #expect((300...700).contains(milliseconds), "took \(milliseconds) ms")
        }
        try network.a.inside { try manager.add(address, to: Network.nic()) }
        try network.b.inside {
            do {
                try ConflictProbe().run(address, on: Network.nic())
                Issue.record("no conflict found")
            } catch let error as AddressingError {
                #expect("\(error)".contains("02:00:00:00:09:01"), "\(error)")
            }
        }
    }

    @Test(arguments: [Network.vip4, Network.vip6])
    func announcementMovesTheClientAtOnce(_ address: VirtualAddress) throws {
        guard mayRun() else { return }
        let network = try Network()
        try network.a.inside { try manager.add(address, to: Network.nic()) }
        let listener = try network.a.inside { try Socket.listening(address, 7000) }
        _ = try network.client.inside { try Socket.connected(address, 7000) }
        _ = try listener.accept()
        #expect(try network.neighbour(address) == "02:00:00:00:09:01")

        try network.a.inside { try manager.remove(address, from: Network.nic()) }
        try network.b.inside { try manager.add(address, to: Network.nic()) }
        #expect(try network.neighbour(address) == "02:00:00:00:09:01", "moved without an announcement")
        try network.b.inside { try Announcement.once(address, on: Network.nic()) }
        try eventually("the client's entry names the new host") {
            try network.neighbour(address) == "02:00:00:00:09:02"
        }
    }

    @Test func announcerKeepsItsScheduleUntilCancelled() throws {
        guard mayRun() else { return }
        let network = try Network()
        let watch = try network.client.inside { try PacketSocket(interface: Network.nic(), etherType: 0x0806) }
        let start = Clock.monotonic
        let announcer = try network.a.inside {
            let announcer = try Announcer()
            try announcer.announce([(Network.vip4, Network.nic())], schedule: [0, 50, 200, 60_000])
            return announcer
        }
        var times: [Int64] = []
        while times.count < 6, let frame = try watch.receive(milliseconds: 1000) {
            guard frame.count >= 42, Array(frame[28..<32]) == Network.vip4.bytes else { continue }
            #expect(Array(frame[38..<42]) == Network.vip4.bytes)
            times.append((Clock.monotonic - start) / 1_000_000)
        }
        #expect(times.count == 6)
        #expect(times.last ?? 0 >= 200)
        #expect(times.count < 6 || (times[2] >= 50 && times[1] < 50))
        announcer.cancel([Network.vip4])
        announcer.cancel()
        announcer.cancel()
        #expect((Clock.monotonic - start) < 5_000_000_000, "cancel waited for the schedule")
        #expect(announcer.failure == nil)
    }

    @Test(arguments: [Network.vip4, Network.vip6])
    func watchDefendsTheAddress(_ address: VirtualAddress) throws {
        guard mayRun() else { return }
        let network = try Network()
        let events = Mutex<[OwnershipWatch.Event]>([])
        let watch = try network.a.inside {
            try manager.add(address, to: Network.nic())
            let watch = try OwnershipWatch { _, event in events.withLock { $0.append(event) } }
            try watch.begin([(address, Network.nic())])
            return watch
        }
        func expect(_ event: OwnershipWatch.Event) throws {
            try eventually("\(event)") { events.withLock { $0.contains(event) } }
        }
        // Removed as a network manager would.
        try network.a.ip("address", "del", "\(address.text)/\(address.family.bits)", "dev", "eth0")
        try expect(.restored(failure: nil))
        #expect(try network.a.inside { try manager.isPresent(address, on: Network.nic()) })
        // Claimed by another host, twice: the client comes back, once.
        let listener = try network.a.inside { try Socket.listening(address, 7000) }
        _ = try network.client.inside { try Socket.connected(address, 7000) }
        _ = try listener.accept()
        try network.b.inside { try Announcement.once(address, on: Network.nic()) }
        try expect(.foreignClaim(hardware: "02:00:00:00:09:02", defended: true))
        try eventually("the client comes back") { try network.neighbour(address) == "02:00:00:00:09:01" }
        try network.b.inside { try Announcement.once(address, on: Network.nic()) }
        try expect(.foreignClaim(hardware: "02:00:00:00:09:02", defended: false))
        // The cable is pulled and put back.
        try network.wire.ip("link", "set", "p1", "down")
        usleep(50_000)
        try network.wire.ip("link", "set", "p1", "up")
        try expect(.carrierReturned)
        // The end is the end.
        watch.end([address])
        try network.a.inside { try manager.remove(address, from: Network.nic()) }
        usleep(50_000)
        #expect(try network.a.inside { try !manager.isPresent(address, on: Network.nic()) })
    }

    /// More addresses than a filter of the socket can name.
    @Test(arguments: [100, 1000])
    func watchTellsManyAddressesApart(_ count: Int) throws {
        guard mayRun() else { return }
        let network = try Network()
        let events = Mutex<[(VirtualAddress, OwnershipWatch.Event)]>([])
        let addresses = (1...count).flatMap { number in
            ["10.9.\(1 + number / 250).\(number % 250)", "fd00:9::\(String(number, radix: 16)):1"]
        }.compactMap { VirtualAddress(text: $0) }
        let watch = try network.a.inside {
            let places = try addresses.map { ($0, try Network.nic()) }
            try manager.add(places)
            let watch = try OwnershipWatch { address, event in events.withLock { $0.append((address, event)) } }
            try watch.begin(places)
            watch.setSuspended(true, [addresses[0]])
            watch.end([addresses[2]])
            return watch
        }
        func seen(_ address: VirtualAddress) -> [OwnershipWatch.Event] {
            events.withLock { $0.filter { $0.0 == address }.map(\.1) }
        }
        for address in [addresses[0], addresses[2], addresses[4], addresses[count], addresses[2 * count - 1]] {
            try network.b.inside { try Announcement.once(address, on: Network.nic()) }
        }
        try eventually("the last one's claim") { !seen(addresses[2 * count - 1]).isEmpty }
        for address in [addresses[4], addresses[count], addresses[2 * count - 1]] {
            #expect(seen(address).first == .foreignClaim(hardware: "02:00:00:00:09:02", defended: true))
        }
        // All at once, as by a network manager that starts anew.
        try network.a.ip("address", "flush", "dev", "eth0", "scope", "global")
        let watched = Set(addresses).subtracting([addresses[0], addresses[2]])
        try eventually("\(watched.count) addresses are back") {
            let present = try network.a.inside { try manager.list() }
            let nic = try network.a.inside { try Network.nic() }
            return watched.allSatisfy { present.contains($0, on: nic) }
        }
        #expect(
            seen(addresses[0]).isEmpty && seen(addresses[2]).isEmpty, "one that is suspended and one that has ended")
        watch.cancel()
    }
}
