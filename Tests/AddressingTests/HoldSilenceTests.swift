import CKernel
import Glibc
import Testing

@testable import Addressing
@testable import Kernel

/// What a host says about an address whose packets it holds.
extension HoldQueueTests {
    @Test(arguments: [Network.vip4, Network.vip6])
    func silentHostSaysNothing(_ address: VirtualAddress) throws {
        guard mayRun() else { return }
        let network = try Network()
        let pins = try PinDirectory()
        var queue: HoldQueue? = try claim(address, on: network.a, pins)
        let probe = ConflictProbe(probes: 2, intervalMilliseconds: 60)
        func isHeard() throws -> Bool {
            do { try network.b.inside { try probe.run(address, on: Network.nic()) } } catch { return true }
            return false
        }
        #expect(try isHeard())
        let listener = try network.a.inside { try Socket.listening(address, 7000) }
        let peer = try network.client.inside { try Socket.connected(address, 7000) }
        let server = try listener.accept()

        try network.a.inside { try queue?.setMode(address, .silent) }
        #expect(try !isHeard())
        // What the kernel itself would send from the address stays inside, announcements included.
        let watch = try network.client.inside {
            try PacketSocket(interface: Network.nic(), etherType: address.family == .ipv4 ? 0x0800 : 0x86dd)
        }
        try server.send([1, 2, 3])
        _ = try network.a.inside {
            #expect(throws: AddressingError.self) { try Announcement.once(address, on: Network.nic()) }
        }
        while let frame = try watch.receive(milliseconds: 100) {
            let source = address.family == .ipv4 ? frame[26..<30] : frame[22..<38]
            #expect(Array(source) != address.bytes, "a packet left the silent host")
        }
        #expect(try network.a.inside { try queue?.counters(address).silenced ?? 0 } >= 3)

        // The daemon ends and comes back: silent in between, and it knows.
        queue = nil
        #expect(try !isHeard())
        try network.a.inside {
            let again = try HoldQueue(pinDirectory: pins.path)
            #expect(try again.mode(of: address) == .silent)
            #expect(try again.heldAddresses().map(\.text) == [address.text])
            try again.prepare(Network.nic(), [address])
            #expect(try again.mode(of: address) == .silent)
            try again.release(address)
            #expect(try again.mode(of: address) == [])
        }
        #expect(try isHeard())
        #expect(try peer.receive() == [1, 2, 3])
    }

    @Test(arguments: [Network.vip4, Network.vip6])
    func silentHostAnswersUntilAnotherAnnounces(_ address: VirtualAddress) throws {
        guard mayRun() else { return }
        let network = try Network()
        let pins = try PinDirectory()
        let queue = try claim(address, on: network.a, pins)
        let probe = ConflictProbe(probes: 2, intervalMilliseconds: 60)
        func isHeard() throws -> Bool {
            do { try network.b.inside { try probe.run(address, on: Network.nic()) } } catch { return true }
            return false
        }
        try network.a.inside { try queue.setMode(address, [.hold, .silent, .answer]) }
        #expect(try isHeard())
        // Nothing else leaves: a connection is not accepted.
        let listener = try network.a.inside { try Socket.listening(address, 7000) }
        let dialler = try network.client.inside { Worker { _ = try Socket.connected(address, 7000) } }
        try eventually("the request waits") {
            try network.a.inside { try queue.counters(address).heldPackets } > 0
        }
        try network.b.inside { _ = try Announcement.once(address, on: Network.nic()) }
        try eventually("silence") { try network.a.inside { try queue.mode(of: address) } == [.hold, .silent] }
        #expect(try !isHeard())
        try network.a.inside {
            try queue.release(address)
            try Announcement.once(address, on: Network.nic())
        }
        try dialler.join()
        try eventually("the connection") { (try? listener.accept()) != nil }
    }
}
