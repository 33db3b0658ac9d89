import CKernel
import Glibc
import Kernel
import ProcessImage
import Testing

@testable import Resources

@Suite(.serialized) struct TCPTests {
    @Test(arguments: [AF_INET, AF_INET6]) func carriesBothQueues(family: Int32) throws {
        let bench = try SocketBench()
        var connection = try connect(bench, family)
        try Socket.setInteger(connection.server, 6, 1, 1)
        try Socket.setInteger(connection.server, 6, 4, 77)
        try Socket.setInteger(connection.server, 1, 9, 1)
        let inbound = pattern(100_000, 3)
        let outbound = pattern(300_000, 9)
        try Socket.sendAll(connection.client, inbound)
        let server = connection.server.raw
        try wait("inbound data") {
            let copy = try ProcessDescriptors.take(pid: getpid(), number: server)
            return try Socket.readable(copy) == 100_000
        }
        // The client's acknowledgements do not arrive: what is sent stays in the queue, and cwnd stops the rest.
        try bench.loseInput("a")
        try Socket.setInteger(connection.server, 1, 32, 1 << 20)
        try Socket.sendAll(connection.server, outbound)
        // What is still on its way when the cable is pulled would be lost.
        try wait("all that was sent at the client") {
            let onItsWay = try Socket.unacknowledged(connection.server) - Socket.unsent(connection.server)
            return try Socket.readable(connection.client) >= onItsWay
        }
        try bench.isolateSource()
        let capture = OwnCapture()
        let restore = OwnRestore()
        let began = Clock.monotonic
        restore.image.descriptions = [try capture.describe(try probe(connection.server))]
        let record = try Payload.decode(TCPConnection.Record.self, from: restore.image.descriptions[0], index: 0)
        #expect(record.sent.count > 0)
        #expect(record.unsent.count > 0)
        #expect(record.sent.count + record.unsent.count == 300_000)
        connection.server = FileDescriptor(owning: -1)
        capture.commit()
        try bench.connectDestination()
        restore.frozenNanoseconds = Clock.monotonic - began
        try bench.inside("b") { try restore.restoreAll() }
        try bench.inside("b") { try restore.activateAll() }
        let moved = restore.socket(0)
        #expect(try receiveAll(connection.client, 300_000) == outbound)
        #expect(try receiveAll(moved, 100_000) == inbound)
        try Socket.sendAll(connection.client, pattern(5000))
        #expect(try receiveAll(moved, 5000) == pattern(5000))
        #expect(try Socket.integer(moved, 6, 1) == 1)
        #expect(try Socket.integer(moved, 6, 4) == 77)
        #expect(try Socket.integer(moved, 1, 9) == 1)
        let clientError = try Socket.integer(connection.client, 1, 4)
        #expect(clientError == 0)
        #expect(try retransmissions(connection.client) == 0)
        // The source's own loss probe may have fallen between its isolation and its capture: that segment is lost.
        #expect(try retransmissions(moved) <= 2)
    }

    /// Moves one connection whose queues are empty to `b`.
    private func move(
        _ bench: borrowing SocketBench, _ connection: inout Connection
    ) throws -> (OwnRestore, TCPConnection.Record) {
        try bench.isolateSource()
        let capture = OwnCapture()
        let restore = OwnRestore()
        restore.image.descriptions = [try capture.describe(try probe(connection.server))]
        let record = try Payload.decode(TCPConnection.Record.self, from: restore.image.descriptions[0], index: 0)
        connection.server = FileDescriptor(owning: -1)
        capture.commit()
        try bench.connectDestination()
        restore.frozenNanoseconds = 100_000_000
        try bench.inside("b") { try restore.restoreAll() }
        try bench.inside("b") { try restore.activateAll() }
        return (restore, record)
    }

    private func state(_ socket: borrowing FileDescriptor) throws -> UInt8 { try TCP.Information(of: socket).state }

    @Test(arguments: [AF_INET, AF_INET6]) func carriesCloseWait(family: Int32) throws {
        let bench = try SocketBench()
        var connection = try connect(bench, family)
        try Socket.sendAll(connection.client, pattern(700))
        try Socket.shutdown(connection.client, 1)
        let copy = try connection.server.duplicate()
        try wait("close-wait") { try state(copy) == TCP.closeWait }
        _ = consume copy
        let (restore, record) = try move(bench, &connection)
        #expect(record.received.content == pattern(700))
        let moved = restore.socket(0)
        #expect(try state(moved) == TCP.closeWait)
        #expect(try receiveAll(moved, 701) == pattern(700))
        try Socket.sendAll(moved, pattern(9000))
        try Socket.shutdown(moved, 1)
        #expect(try receiveAll(connection.client, 9001) == pattern(9000))
        let clientError = try Socket.integer(connection.client, 1, 4)
        #expect(clientError == 0)
        #expect(try retransmissions(connection.client) == 0)
    }

    @Test(arguments: [AF_INET, AF_INET6]) func carriesFinWait2(family: Int32) throws {
        let bench = try SocketBench()
        var connection = try connect(bench, family)
        try Socket.sendAll(connection.server, pattern(900))
        try Socket.shutdown(connection.server, 1)
        let copy = try connection.server.duplicate()
        try wait("fin-wait-2") { try state(copy) == TCP.finWait2 }
        _ = consume copy
        let (restore, _) = try move(bench, &connection)
        let moved = restore.socket(0)
        #expect(try state(moved) == TCP.finWait2)
        #expect(try receiveAll(connection.client, 901) == pattern(900))
        try Socket.sendAll(connection.client, pattern(4000))
        try Socket.shutdown(connection.client, 1)
        #expect(try receiveAll(moved, 4001) == pattern(4000))
        let clientError = try Socket.integer(connection.client, 1, 4)
        #expect(clientError == 0)
    }

    @Test(arguments: [AF_INET, AF_INET6]) func carriesFinWait1(family: Int32) throws {
        let bench = try SocketBench()
        var connection = try connect(bench, family)
        // Nothing that the client says arrives: what we send stays unacknowledged.
        try bench.loseInput("a")
        try Socket.setInteger(connection.server, 1, 32, 1 << 20)
        try Socket.sendAll(connection.server, pattern(200_000))
        try Socket.shutdown(connection.server, 1)
        #expect(try state(connection.server) == TCP.finWait1)
        try bench.isolateSource()
        let capture = OwnCapture()
        let restore = OwnRestore()
        restore.image.descriptions = [try capture.describe(try probe(connection.server))]
        let record = try Payload.decode(TCPConnection.Record.self, from: restore.image.descriptions[0], index: 0)
        #expect(record.finUnsent)
        connection.server = FileDescriptor(owning: -1)
        capture.commit()
        try bench.connectDestination()
        try bench.inside("b") { try restore.restoreAll() }
        try bench.inside("b") { try restore.activateAll() }
        #expect(try receiveAll(connection.client, 200_001) == pattern(200_000))
        let moved = restore.socket(0)
        try wait("fin-wait-2") { try state(moved) == TCP.finWait2 }
        let clientError = try Socket.integer(connection.client, 1, 4)
        #expect(clientError == 0)
        _ = consume moved
    }

    @Test(arguments: [TCP.finWait1, TCP.closing, TCP.lastAck]) func carriesSentFin(wanted: UInt8) throws {
        let bench = try SocketBench()
        var connection = try connect(bench, AF_INET)
        let client = connection.client.raw
        let server = connection.server.raw
        func serverState() throws -> UInt8 {
            try state(try ProcessDescriptors.take(pid: getpid(), number: server))
        }
        if wanted == TCP.lastAck {
            try Socket.shutdown(connection.client, 1)
            try wait("close-wait") { try serverState() == TCP.closeWait }
        }
        // TCP_QUICKACK: an acknowledgement that comes 40 ms later finds the destination up, and no socket there yet.
        try Socket.setInteger(connection.client, 6, 12, 1)
        // Our FIN stays unacknowledged. For CLOSING the client's must arrive: ours is lost instead of its answer.
        try bench.loseInput(wanted == TCP.closing ? "c" : "a")
        try Socket.shutdown(connection.server, 1)
        if wanted == TCP.closing {
            try Socket.shutdown(FileDescriptor(owning: dup(client)), 1)
        }
        try wait("state \(wanted)") { try serverState() == wanted }
        if wanted != TCP.closing {
            // What is still on its way when the cable is pulled would be lost.
            let copy = FileDescriptor(owning: dup(client))
            try wait("our FIN at the client") { try ![TCP.established, TCP.finWait2].contains(state(copy)) }
        }
        try bench.isolateSource()
        let capture = OwnCapture()
        let restore = OwnRestore()
        restore.image.descriptions = [try capture.describe(try probe(connection.server))]
        connection.server = FileDescriptor(owning: -1)
        capture.commit()
        try bench.connectDestination()
        try bench.inside("b") { try restore.restoreAll() }
        let before = try restore.take(description: 0)
        #expect(try state(before) == wanted)
        if wanted == TCP.closing { try bench.keepInput("c") }
        try bench.inside("b") { try restore.activateAll() }
        let moved = restore.socket(0)
        #expect(try receiveAll(connection.client, 1) == [])
        try wait("acknowledged") { try [TCP.finWait2, TCP.closed, TCP.timeWait].contains(state(moved)) }
        let clientError = try Socket.integer(connection.client, 1, 4)
        #expect(clientError == 0)
        _ = consume moved
    }

    @Test func rollsBack() throws {
        let bench = try SocketBench()
        let connection = try connect(bench, AF_INET)
        try Socket.setInteger(connection.server, 1, 2, 1)
        try Socket.sendAll(connection.client, pattern(3000))
        let server = connection.server.raw
        try wait("data") { try Socket.readable(try ProcessDescriptors.take(pid: getpid(), number: server)) == 3000 }
        let capture = OwnCapture()
        _ = try capture.describe(try probe(connection.server))
        #expect(try Socket.integer(connection.server, 6, 19) == 1)
        capture.rollBack()
        #expect(try Socket.integer(connection.server, 6, 19) == 0)
        #expect(try Socket.integer(connection.server, 1, 2) == 1)
        #expect(try receiveAll(connection.server, 3000) == pattern(3000))
        try Socket.sendAll(connection.server, pattern(50_000))
        #expect(try receiveAll(connection.client, 50_000) == pattern(50_000))
        #expect(try retransmissions(connection.server) == 0)
    }

    /// The proof that the repair mode is what keeps the client's connection: without it the client sees the end.
    @Test func withoutRepairTheClientSeesTheEnd() throws {
        let bench = try SocketBench()
        var connection = try connect(bench, AF_INET)
        try Socket.sendAll(connection.client, pattern(100))
        let server = connection.server.raw
        try wait("data") { try Socket.readable(try ProcessDescriptors.take(pid: getpid(), number: server)) == 100 }
        let capture = OwnCapture()
        _ = try capture.describe(try probe(connection.server))
        try TCP.set(connection.server, TCP.repair, TCP.offSilently)
        connection.server = FileDescriptor(owning: -1)
        capture.commit()
        let client = connection.client.raw
        try wait("reset") {
            try Socket.integer(try ProcessDescriptors.take(pid: getpid(), number: client), 1, 4) == ECONNRESET
        }
    }

    /// And with it, while the source is still reachable, the client sees nothing.
    @Test func closesSilently() throws {
        let bench = try SocketBench()
        var connection = try connect(bench, AF_INET)
        try Socket.sendAll(connection.client, pattern(100))
        let server = connection.server.raw
        try wait("data") { try Socket.readable(try ProcessDescriptors.take(pid: getpid(), number: server)) == 100 }
        let capture = OwnCapture()
        _ = try capture.describe(try probe(connection.server))
        connection.server = FileDescriptor(owning: -1)
        capture.commit()
        poll(nil, 0, 50)
        #expect(try state(connection.client) == TCP.established)
        let clientError = try Socket.integer(connection.client, 1, 4)
        #expect(clientError == 0)
    }

    @Test(arguments: [AF_INET, AF_INET6]) func carriesListener(family: Int32) throws {
        let bench = try SocketBench()
        let capture = OwnCapture()
        let restore = OwnRestore()
        let wildcard = SocketName.ip([UInt8](repeating: 0, count: 16), port: 8080, family: family)
        try bench.inside("a") {
            let listener = try Socket.make(family, 1, 0)
            try Socket.setInteger(listener, 1, 2, 1)
            try Socket.setInteger(listener, 1, 15, 1)
            if family == AF_INET6 { try Socket.setInteger(listener, 41, 26, 1) }
            try Socket.setInteger(listener, 6, 9, 7)
            try Socket.setInteger(listener, 6, 23, 5)
            try Socket.bind(listener, wildcard)
            try Socket.listen(listener, backlog: 37)
            let found = try probe(listener)
            #expect(DescriptorKinds.check(found, in: capture.check).isEmpty)
            restore.image.descriptions = [try capture.describe(found)]
        }
        try bench.connectDestination()
        try bench.isolateSource()
        try bench.inside("b") { try restore.restoreAll() }
        let listener = restore.socket(0)
        #expect(try TCP.Information(of: listener).backlog == 37)
        #expect(try Socket.integer(listener, 1, 15) == 1)
        #expect(try Socket.integer(listener, 6, 9) == 7)
        #expect(try Socket.integer(listener, 6, 23) == 5)
        #expect(try Socket.localAddress(listener) == wildcard)
    }

    @Test func refusesPendingConnections() throws {
        let bench = try SocketBench()
        try bench.inside("a") {
            let listener = try Socket.make(AF_INET, 1, 0)
            try Socket.bind(listener, .ip(SocketBench.address4, port: 9090, family: AF_INET))
            try Socket.listen(listener, backlog: 5)
            let client = try Socket.make(AF_INET, 1, 0)
            try Socket.connect(client, .ip(SocketBench.address4, port: 9090, family: AF_INET))
            let found = try probe(listener)
            do throws(ResourceError) {
                _ = try TCPListener.capture(found, in: OwnCapture())
                Issue.record("a pending connection was overlooked")
            } catch {
                #expect(TransientProblem.matches(error))
            }
        }
    }

    @Test func movesTwoHundred() throws {
        let bench = try SocketBench()
        var numbers: [(server: Int32, client: Int32)] = []
        for index in 0..<200 {
            let connection = try connect(bench, AF_INET, port: UInt16(1000 + index))
            numbers.append((dup(connection.server.raw), dup(connection.client.raw)))
        }
        let probes = try numbers.map { try probe(try ProcessDescriptors.take(pid: getpid(), number: $0.server)) }
        let capture = OwnCapture()
        let restore = OwnRestore()
        try bench.isolateSource()
        let began = Clock.monotonic
        restore.image.descriptions = try zip(probes, numbers).map { probe, number in
            var probe = probe
            probe.number = number.server
            return try capture.describe(probe)
        }
        let captured = Clock.monotonic
        for number in numbers { _ = FileDescriptor(owning: number.server) }
        capture.commit()
        try bench.connectDestination()
        let started = Clock.monotonic
        restore.frozenNanoseconds = started - began
        try bench.inside("b") { try restore.restoreAll() }
        let restored = Clock.monotonic
        try bench.inside("b") { try restore.activateAll() }
        let activated = Clock.monotonic
        print(
            "200 connections: capture \((captured - began) / 200_000) µs, restore \((restored - started) / 200_000) µs,"
                + " activate \((activated - restored) / 200_000) µs each")
        for index in numbers.indices {
            let client = FileDescriptor(owning: numbers[index].client)
            let server = restore.socket(Int32(index))
            try Socket.sendAll(server, pattern(20, index))
            #expect(try receiveAll(client, 20) == pattern(20, index))
            #expect(try retransmissions(client) == 0)
        }
    }

    @Test func carriesConnecting() throws {
        let bench = try SocketBench()
        let address = SocketName.ipv4([10, 77, 0, 9], port: 7000)
        let listener = try bench.inside("c") {
            let listener = try Socket.make(AF_INET, 1, 0)
            try Socket.bind(listener, address)
            try Socket.listen(listener, backlog: 4)
            return listener
        }
        let socket = try bench.inside("a") { try Socket.make(AF_INET, 1, 0) }
        // The answer to our SYN is lost.
        try bench.loseInput("a")
        try Socket.setStatusFlags(socket, O_NONBLOCK)
        try Socket.bind(socket, .ip(SocketBench.address4, port: 0, family: AF_INET))
        let error = #expect(throws: KernelError.self) { try Socket.connect(socket, address) }
        #expect(error?.code.rawValue == EINPROGRESS)
        var found = try probe(socket)
        #expect(found.socket?.state == TCP.synSent)
        found.socket?.remoteAddress = address.address
        found.socket?.remotePort = address.port
        try bench.isolateSource()
        let capture = OwnCapture()
        let restore = OwnRestore()
        restore.image.descriptions = [try capture.describe(found)]
        _ = consume socket
        capture.commit()
        try bench.connectDestination()
        try bench.inside("b") { try restore.restoreAll() }
        try bench.inside("b") { try restore.activateAll() }
        let moved = restore.socket(0)
        let peer = try Socket.accept(listener)
        try wait("connected") { try state(moved) == TCP.established }
        try Socket.sendAll(peer, pattern(30))
        try Socket.setStatusFlags(moved, 0)
        #expect(try receiveAll(moved, 30) == pattern(30))
    }

    @Test func endsWhatMayBeLost() throws {
        let bench = try SocketBench()
        let connection = try connect(bench, AF_INET)
        var found = try probe(connection.server)
        let capture = OwnCapture(addresses: [])
        #expect(DescriptorKinds.check(found, in: capture.check).count == 1)
        capture.check.allowsLoss = true
        #expect(DescriptorKinds.check(found, in: capture.check).isEmpty)
        found.socket?.isMPTCP = true
        #expect(DescriptorKinds.check(found, in: capture.check).count == 1)
        found.socket?.isMPTCP = false
        let restore = OwnRestore()
        restore.image.descriptions = [try capture.describe(found)]
        try bench.connectDestination()
        try bench.inside("b") { try restore.restoreAll() }
        try bench.inside("b") { try restore.activateAll() }
        #expect(try Socket.integer(restore.socket(0), 1, 4) == ECONNABORTED)
    }
}
