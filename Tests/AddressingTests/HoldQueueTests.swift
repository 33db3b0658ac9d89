import CKernel
import Glibc
import Synchronization
import Testing

@testable import Addressing
@testable import Kernel

@Suite(.serialized) struct HoldQueueTests {
    /// A host with the address and a prepared queue.
    func claim(_ address: VirtualAddress, on host: Namespace, _ pins: PinDirectory) throws -> HoldQueue {
        try host.inside {
            try AddressManager().add(address, to: Network.nic())
            let queue = try HoldQueue(pinDirectory: pins.path)
            try queue.prepare(Network.nic(), [address])
            return queue
        }
    }

    /// A client sends 500 lines, 2 ms apart, and the address is held for 100 ms in the middle.
    private func sendLines(
        _ address: VirtualAddress, end: @Sendable @escaping (HoldQueue) throws -> Void
    ) throws -> (lines: [String], repeated: Repetitions, counters: HoldCounters) {
        let network = try Network()
        let pins = try PinDirectory()
        let queue = try claim(address, on: network.a, pins)
        let listener = try network.a.inside { try Socket.listening(address, 7000) }
        let before = try network.client.inside { try Repetitions() }
        let peer = try network.client.inside { try Socket.connected(address, 7000) }
        let server = try listener.accept()
        let received = Mutex<[UInt8]>([])
        let sender = Worker {
            for number in 0..<500 {
                try peer.send([UInt8]("line \(number)\n".utf8))
                usleep(2_000)  // the load's rhythm: a line every 2 ms
            }
            try peer.finish()
        }
        let reader = Worker {
            while case let piece = try server.receive(), !piece.isEmpty { received.withLock { $0 += piece } }
        }
        try eventually("the server reads") { received.withLock { $0.count } > 1000 }
        try queue.setMode(address, .hold)
        // With a few lines held, what was under way when the hold began has been read.
        try eventually("lines are held") { try network.a.inside { try queue.counters(address).heldPackets } >= 3 }
        let atStart = received.withLock { $0.count }
        usleep(90_000)  // the length of the hold: nothing may happen in it
        #expect(received.withLock { $0.count } == atStart, "something passed the hold")
        let counters = try network.a.inside { try queue.counters(address) }
        try network.a.inside { try end(queue) }
        try sender.join()
        try reader.join()
        let text = String(decoding: received.withLock { $0 }, as: UTF8.self)
        let after = try network.client.inside { try Repetitions() }
        return (text.split(separator: "\n").map(String.init), after - before, counters)
    }

    @Test(arguments: [Network.vip4, Network.vip6])
    func holdingHidesAPauseFromTheClient(_ address: VirtualAddress) throws {
        guard mayRun() else { return }
        let result = try sendLines(address) { try $0.release(address) }
        #expect(result.lines == (0..<500).map { "line \($0)" })
        #expect(result.repeated.areOnlyProbes, "\(result.repeated)")
        #expect(result.counters.heldPackets >= 20)
        #expect(result.counters.droppedAtBound == 0)
    }

    @Test func withoutTheReleaseTheClientMustRepeat() throws {
        guard mayRun() else { return }
        let result = try sendLines(Network.vip4) { try $0.close(Network.vip4) }
        #expect(result.lines == (0..<500).map { "line \($0)" })
        #expect(!result.repeated.areOnlyProbes, "the control shows nothing: lost frames were not missed")
    }

    @Test(arguments: [Network.vip4, Network.vip6])
    func largeSegmentsSurvive(_ address: VirtualAddress) throws {
        guard mayRun() else { return }
        let network = try Network()
        let pins = try PinDirectory()
        let queue = try claim(address, on: network.a, pins)
        let listener = try network.a.inside { try Socket.listening(address, 7000) }
        let peer = try network.client.inside { try Socket.connected(address, 7000) }
        let server = try listener.accept()
        let data = [UInt8](unsafeUninitializedCapacity: 12_000_000) { buffer, count in
            for index in 0..<12_000_000 { buffer[index] = UInt8(truncatingIfNeeded: (index &* 2_654_435_761) >> 13) }
            count = 12_000_000
        }
        let sender = Worker {
            try peer.send(data)
            try peer.finish()
        }
        let count = Mutex(0)
        let equal = Mutex(true)
        let reader = Worker {
            var position = 0
            while case let piece = try server.receive(1 << 20), !piece.isEmpty {
                if piece[...] != data[position..<position + piece.count] { equal.withLock { $0 = false } }
                position += piece.count
                count.withLock { $0 = position }
            }
        }
        try eventually("some data came") { count.withLock { $0 } > 100_000 }
        try queue.setMode(address, .hold)
        usleep(60_000)  // the length of the hold: a bulk sender must fill its window in it
        try network.a.inside { try queue.release(address) }
        try reader.join()
        try sender.join()
        #expect(count.withLock { $0 } == data.count)
        #expect(equal.withLock { $0 })
        let counters = try network.a.inside { try queue.counters(address) }
        #expect(counters.heldPackets > 0)
        #expect(counters.heldBytes > 2_000 * counters.heldPackets, "no large segment was held: \(counters)")
    }

    @Test(arguments: [Network.vip4, Network.vip6])
    func heldPacketsGoOnAtAnotherHost(_ address: VirtualAddress) throws {
        guard mayRun() else { return }
        let network = try Network()
        let (pinsA, pinsB) = (try PinDirectory(), try PinDirectory())
        let queueA = try claim(address, on: network.a, pinsA)
        // The client learns where the address is.
        let old = try network.a.inside { try Socket.listening(address, 7001) }
        _ = try network.client.inside { try Socket.connected(address, 7001) }
        _ = try old.accept()
        try network.a.inside { try queueA.setMode(address, [.hold, .silent]) }

        let before = try network.client.inside { try Repetitions() }
        let connected = Mutex<Socket?>(nil)
        let datagrams = try network.client.inside { try Socket.connected(address, 7002, stream: false) }
        for number in 0..<40 { try datagrams.send([UInt8](repeating: UInt8(number), count: 1 + number * 500)) }
        let segmented = try network.client.inside { try Socket.connected(address, 7003, stream: false) }
        try segmented.option(17, 103, 1000)  // SOL_UDP, UDP_SEGMENT: one large packet
        try segmented.send([UInt8](repeating: 7, count: 12_000))
        let dialler = try network.client.inside {
            Worker {
                let socket = try Socket.connected(address, 7000)
                connected.withLock { $0 = socket }
            }
        }
        var carried: [HeldFrame] = []
        try eventually("the opening segment is held") {
            carried += try network.a.inside { try queueA.drain(address, maxFrames: 100_000) }
            return carried.contains { isOpeningSegment($0, address) }
        }
        #expect(connected.withLock { $0 == nil })
        #expect(carried.contains { $0.bytes[1] == 5 }, "UDP segmentation did not survive as one frame")

        let queueB = try claim(address, on: network.b, pinsB)
        let listener = try network.b.inside { try Socket.listening(address, 7000) }
        let (plain, large) = try network.b.inside {
            let pair = (try Socket(address.family, stream: false), try Socket(address.family, stream: false))
            try pair.0.option(SOL_SOCKET, SO_RCVBUF, 4 << 20)
            try pair.0.bind(address, 7002)
            try pair.1.bind(address, 7003)
            return pair
        }
        try network.b.inside {
            try queueB.setMode(address, .hold)
            try Announcement.once(address, on: Network.nic())
            try queueB.inject(address, carried)
            try queueB.release(address)
        }
        try dialler.join()
        let accepted = try listener.accept()
        try accepted.send([42])
        #expect(try connected.withLock { $0 }?.receive() == [42])
        for number in 0..<40 {
            #expect(try plain.receive() == [UInt8](repeating: UInt8(number), count: 1 + number * 500))
        }
        for _ in 0..<12 { #expect(try large.receive() == [UInt8](repeating: 7, count: 1000)) }
        let repeated = try network.client.inside { try Repetitions() } - before
        #expect(repeated.areOnlyProbes, "\(repeated)")
        #expect(try network.neighbour(address) == "02:00:00:00:09:02")
    }

    private func isOpeningSegment(_ frame: HeldFrame, _ address: VirtualAddress) -> Bool {
        let next = address.family == .ipv4 ? 33 : 30
        let flags = address.family == .ipv4 ? 57 : 77
        guard frame.bytes.count > flags, frame.bytes[next] == 6 else { return false }
        return frame.bytes[flags] & 0x12 == 2
    }

    /// Sends numbered datagrams, `pause` ns apart, while the hold begins and ends `cycles` times; returns the numbers
    /// as they came, how many were sent, the longest release in µs and the counters.
    private func switchUnderLoad(
        _ address: VirtualAddress, pause: Int64, cycles: Int, catchUp: Int = 250,
        _ prepare: (borrowing Network) throws -> Void = { _ in }
    ) throws -> (received: [Int], sent: Int, longest: Int64, counters: HoldCounters) {
        let network = try Network()
        try prepare(network)
        let pins = try PinDirectory()
        let queue = try claim(address, on: network.a, pins)
        let receiver = try network.a.inside { try Socket(address.family, stream: false) }
        try receiver.option(SOL_SOCKET, SO_RCVBUFFORCE, 256 << 20)
        try receiver.bind(address, 7000)
        let sender = try network.client.inside { try Socket.connected(address, 7000, stream: false) }
        let sent = Mutex(0)
        let stop = Atomic<Bool>(false)
        let worker = Worker {
            try stay(onProcessor: 0)
            var number = 0
            var next = Clock.monotonic
            while !stop.load(ordering: .relaxed) {
                try sender.send(withUnsafeBytes(of: UInt32(number)) { Array($0) })
                number += 1
                next += pause
                while Clock.monotonic < next && pause > 0 {}
            }
            sent.withLock { $0 = number }
        }
        var longest: Int64 = 0
        try network.a.inside {
            for _ in 0..<cycles {
                try queue.setMode(address, .hold)
                usleep(5_000)  // the length of a hold
                let start = Clock.monotonic
                try queue.release(address, catchUpMilliseconds: catchUp)
                longest = max(longest, (Clock.monotonic - start) / 1000)
                usleep(3_000)  // traffic flows between two holds
            }
        }
        stop.store(true, ordering: .relaxed)
        try worker.join()
        var received: [Int] = []
        let total = sent.withLock { $0 }
        while received.count < total {
            let bytes = try receiver.receive(16)
            received.append(Int(bytes.withUnsafeBytes { $0.loadUnaligned(as: UInt32.self) }))
        }
        #expect(throws: KernelError.self) { try receiver.receive(16, flags: Int32(MSG_DONTWAIT)) }
        return (received, total, longest, try network.a.inside { try queue.counters(address) })
    }

    /// Keeps the calling thread on one processor. A veth pair queues what it carries at the sender's: a thread that
    /// moves to another overtakes itself there (`netif_rx`, net/core/dev.c), without any hold.
    private func stay(onProcessor number: Int) throws {
        try systemCall("sched_setaffinity") {
            withUnsafeBytes(of: 1 << number) {
                ck_syscall(Int(SYS_sched_setaffinity), 0, $0.count, Int(bitPattern: $0.baseAddress), 0, 0, 0)
            }
        }
    }

    @Test(arguments: [Network.vip4, Network.vip6])
    func nothingIsOvertakenOrLostAtTheSwitch(_ address: VirtualAddress) throws {
        guard mayRun() else { return }
        let result = try switchUnderLoad(address, pause: 40_000, cycles: 40, catchUp: 5000)
        print("\(result.sent) sent, \(result.counters.heldPackets) held, longest release \(result.longest) µs")
        #expect(result.counters.heldPackets > 400 && result.counters.droppedAtBound == 0)
        #expect(result.received.indices.first { result.received[$0] != $0 } == nil, "first packet out of place")
    }

    /// What is put back goes slowly from the programs to its socket, but for the processor of what comes by itself.
    @Test(arguments: [Network.vip4, Network.vip6])
    func aPacketOnItsWayToItsSocketIsNotOvertaken(_ address: VirtualAddress) throws {
        guard mayRun() else { return }
        guard sysconf(Int32(_SC_NPROCESSORS_ONLN)) > 1 else {
            return print("skipped, because there is one processor only, on which nothing overtakes")
        }
        let rules = String(repeating: "udp dport 1 accept; ", count: 3000)
        let slow = "table inet slow { chain crawl { \(rules) }; chain input { type filter hook input priority 0; "
        let outcome = Mutex<(received: [Int], held: UInt64)>(([], 0))
        let worker = Worker {
            try stay(onProcessor: 1)
            let result = try switchUnderLoad(address, pause: 500_000, cycles: 20, catchUp: 5000) { network in
                try run(["ip", "netns", "exec", network.a.name, "nft", slow + "meta cpu 1 jump crawl; }; }"])
            }
            outcome.withLock { $0 = (result.received, result.counters.heldPackets) }
        }
        try worker.join()
        let (received, held) = outcome.withLock { $0 }
        #expect(held > 100)
        #expect(received.indices.first { received[$0] != $0 } == nil, "first packet out of place")
    }

    @Test func aFloodDelaysTheReleaseButLosesNothing() throws {
        guard mayRun() else { return }
        let result = try switchUnderLoad(Network.vip4, pause: 0, cycles: 2)
        print("\(result.sent) sent, \(result.counters.heldPackets) held, longest release \(result.longest) µs")
        #expect(result.longest < 2_000_000)
        #expect(Set(result.received).count == result.sent)
    }

    @Test func aFullQueueGivesUpTheNewest() throws {
        guard mayRun() else { return }
        let network = try Network()
        let pins = try PinDirectory()
        try network.a.inside {
            try AddressManager().add(Network.vip4, to: Network.nic())
            let queue = try HoldQueue(pinDirectory: pins.path, bound: 16)
            try queue.prepare(Network.nic(), [Network.vip4])
            let receiver = try Socket(.ipv4, stream: false)
            try receiver.bind(Network.vip4, 7000)
            let sender = try network.client.inside { try Socket.connected(Network.vip4, 7000, stream: false) }
            try queue.setMode(Network.vip4, .hold)
            for number: UInt8 in 0..<100 { try sender.send([number]) }
            try eventually("all are accounted for") { try queue.counters(Network.vip4).heldPackets == 100 }
            let counters = try queue.counters(Network.vip4)
            #expect(counters.droppedAtBound == 84)
            try queue.release(Network.vip4)
            for number: UInt8 in 0..<16 { #expect(try receiver.receive() == [number]) }
            try sender.send([200])
            #expect(try receiver.receive() == [200])
        }
    }

    @Test func onlyOpeningSegmentsWaitWithHoldSYN() throws {
        guard mayRun() else { return }
        let network = try Network()
        let pins = try PinDirectory()
        let queue = try claim(Network.vip4, on: network.a, pins)
        let listener = try network.a.inside { try Socket.listening(Network.vip4, 7000) }
        let first = try network.client.inside { try Socket.connected(Network.vip4, 7000) }
        let server = try listener.accept()
        try queue.setMode(Network.vip4, .holdSYN)
        let second = try network.client.inside { Worker { _ = try Socket.connected(Network.vip4, 7000) } }
        try eventually("the request waits") {
            try network.a.inside { try queue.counters(Network.vip4).heldPackets } == 1
        }
        try first.send([1])
        #expect(try server.receive() == [1])
        try network.a.inside { try queue.release(Network.vip4) }
        try second.join()
        _ = try listener.accept()
    }

    @Test func refusesFramesForOthersAndLeavesOthersFilters() throws {
        guard mayRun() else { return }
        let network = try Network()
        let pins = try PinDirectory()
        let foreign = "tc filter add dev eth0 ingress prio 1 protocol all handle 7 bpf bytecode 1,6:0:0:0,"
        _ = try network.a.inside {
            try HoldQueue.uninstall(from: Network.nic())
            try run(["tc", "qdisc", "add", "dev", "eth0", "clsact"])
            return try run(foreign.split(separator: " ").map { $0.split(separator: ":").joined(separator: " ") })
        }
        let queue = try claim(Network.vip4, on: network.a, pins)
        try network.a.inside {
            #expect(throws: AddressingError.self) {
                try queue.inject(Network.vip4, [HeldFrame(bytes: [UInt8](repeating: 0, count: 100))])
            }
            #expect(throws: AddressingError.self) { try queue.setMode(Network.vip6, .hold) }
            try queue.prepare(Network.nic(), [Network.vip4, Network.vip6])
            try queue.close(Network.vip6)
            let filters = try run(["tc", "filter", "show", "dev", "eth0", "ingress"])
            #expect(filters.components(of: "handle 0x6d6f62") == 1, "\(filters)")
            #expect(filters.components(of: "handle 0x7 ") == 1, "\(filters)")
            let taps = try run(["ip", "-br", "link"])
            #expect(taps.components(of: "mobh") == 1, "\(taps)")
            #expect(try !run(["ip", "address", "show", "dev", "mobh0"]).contains("inet6"))
            #expect(throws: AddressingError.self) { try HoldQueue(pinDirectory: "/tmp/mobt-no-bpf") }
            _ = rmdir("/tmp/mobt-no-bpf")
            try HoldQueue.uninstall(from: Network.nic())
            try HoldQueue.uninstall(from: Network.nic())
            let left = try run(["tc", "filter", "show", "dev", "eth0", "ingress"])
            #expect(left.components(of: "handle 0x") == 1, "\(left)")
        }
    }
}

extension String {
    /// How often `part` occurs.
    func components(of part: String) -> Int {
        var count = 0
        var rest = self[...]
        while let range = rest.firstRange(of: part) {
            count += 1
            rest = rest[range.upperBound...]
        }
        return count
    }
}
