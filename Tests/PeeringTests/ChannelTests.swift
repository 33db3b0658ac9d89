import Glibc
import Kernel
import Testing

@testable import Peering

@Suite struct ChannelTests {
    private let soon: Int64 = 5000

    @Test func bothEndsKnowEachOther() throws {
        let nodes = try Nodes("a", "b")
        try nodes.enrol("a", at: "b")
        let arrived = try Handover<Channel>()
        let listener = try nodes.listener("b") { arrived.give($0) }
        defer { listener.stop() }
        let client = try Channel.connect(
            to: nodes.peer("b", of: "a", at: listener), identity: nodes.identity("a"), features: ["x"],
            deadline: .after(milliseconds: soon))
        let server = try #require(arrived.take())
        #expect(client.remoteName == "b" && server.remoteName == "a")
        #expect(client.remoteHello.features == ["test"] && server.remoteHello.features == ["x"])
        #expect(client.version == 2 && server.version == 2)
        try client.send(type: 5, flags: 3, payload: [1, 2, 3])
        let got = try server.receive(deadline: .after(milliseconds: soon))
        #expect(got == Message(type: 5, flags: 3, payload: [1, 2, 3]))
        // A wait that times out loses nothing.
        #expect(throws: PeeringError.self) { try client.receive(deadline: .after(milliseconds: 20)) }
        try server.send(type: 6)
        #expect(try client.receive(deadline: .after(milliseconds: soon)) == Message(type: 6))
        client.close()
        #expect(throws: PeeringError.closedByPeer) { try server.receive(deadline: .after(milliseconds: soon)) }
        #expect(throws: PeeringError.closed) { try server.send(type: 1) }
        #expect(throws: PeeringError.closed) { try client.send(type: 1) }
    }

    /// Each end sends and receives at once, with messages larger than all socket buffers.
    @Test func bothDirectionsAtOnce() throws {
        let nodes = try Nodes("a", "b")
        try nodes.enrol("a", at: "b")
        let limits = FrameLimits(bulkTypes: [2])
        let arrived = try Handover<Channel>()
        let listener = try nodes.listener("b", limits: limits) { arrived.give($0) }
        defer { listener.stop() }
        let client = try Channel.connect(
            to: nodes.peer("b", of: "a", at: listener), identity: nodes.identity("a"), limits: limits,
            deadline: .after(milliseconds: soon))
        let server = try #require(arrived.take())
        let done = try Handover<String?>()
        let payload = (0..<12_000_000).map { UInt8(truncatingIfNeeded: $0 &* 31 >> 3) }
        for end in [client, server] {
            try DetachedThread.start {
                do {
                    for _ in 0..<3 { try end.send(type: 2, payload: payload) }
                    done.give(nil)
                } catch { done.give("\(error)") }
            }
            try DetachedThread.start {
                do {
                    for _ in 0..<3 {
                        let got = try end.receive(deadline: .after(milliseconds: 30_000))
                        if got.payload != payload { return done.give("payload differs") }
                    }
                    done.give(nil)
                } catch { done.give("\(error)") }
            }
        }
        for _ in 0..<4 { #expect(try #require(done.take(milliseconds: 60_000)) == nil) }
        client.close()
    }

    @Test func closeWakesTheReceiver() throws {
        let nodes = try Nodes("a", "b")
        try nodes.enrol("a", at: "b")
        let arrived = try Handover<Channel>()
        let listener = try nodes.listener("b") { arrived.give($0) }
        defer { listener.stop() }
        let client = try Channel.connect(
            to: nodes.peer("b", of: "a", at: listener), identity: nodes.identity("a"),
            deadline: .after(milliseconds: soon))
        let result = try Handover<PeeringError>()
        try DetachedThread.start {
            do throws(PeeringError) { _ = try client.receive(deadline: .never) } catch { result.give(error) }
        }
        #expect(result.take(milliseconds: 50) == nil)
        client.close()
        #expect(result.take() == .closed)
        _ = arrived.take()
    }

    @Test func wrongPinnedCertificateIsRefused() throws {
        let nodes = try Nodes("a", "b")
        let impostor = try Nodes("b")
        try nodes.enrol("a", at: "b")
        let arrived = try Handover<Channel>()
        let listener = try nodes.listener("b") { arrived.give($0) }
        defer { listener.stop() }
        try Enrolment.addPeer(
            root: nodes.root("a"), name: "b", address: "127.0.0.1", port: listener.address.port,
            certificatePath: impostor.certificate("b"))
        let identity = try nodes.identity("a")
        let peer = try #require(identity.peers["b"])
        let real = try nodes.identity("b").fingerprint
        #expect(throws: PeeringError.untrustedCertificate(expected: "b", fingerprint: real)) {
            try Channel.connect(to: peer, identity: identity, deadline: .after(milliseconds: soon))
        }
        #expect(arrived.take(milliseconds: 100) == nil)
    }

    @Test func unenrolledClientGetsNothing() throws {
        let nodes = try Nodes("a", "b", "c")
        try nodes.enrol("c", at: "b")
        let arrived = try Handover<Channel>()
        let lines = try Handover<String>()
        let listener = try nodes.listener("b", log: { lines.give($0) }) { arrived.give($0) }
        defer { listener.stop() }
        let peer = try nodes.peer("b", of: "a", at: listener)
        let identity = try nodes.identity("a")
        do throws(PeeringError) {
            _ = try Channel.connect(to: peer, identity: identity, deadline: .after(milliseconds: soon))
            Issue.record("connected")
        } catch PeeringError.notEnrolledThere(let name, _) {
            #expect(name == "b")
        } catch { Issue.record("\(error)") }
        let fingerprint = try nodes.identity("a").fingerprint
        #expect(try #require(lines.take()).contains(fingerprint))
        #expect(arrived.take(milliseconds: 100) == nil)
        // Enrolled by a reload, it is let in.
        try nodes.enrol("a", at: "b")
        listener.update(identity: try nodes.identity("b"))
        let channel = try Channel.connect(
            to: peer, identity: nodes.identity("a"), deadline: .after(milliseconds: soon))
        #expect(arrived.take()?.remoteName == "a")
        channel.close()
    }

    @Test func tamperedByteClosesTheChannel() throws {
        let nodes = try Nodes("a", "b")
        try nodes.enrol("a", at: "b")
        let arrived = try Handover<Channel>()
        let listener = try nodes.listener("b") { arrived.give($0) }
        defer { listener.stop() }
        // In the middle of a record: after some 1.5 kB of handshake a record takes 16,406 bytes, and a byte of its
        // header would be another error.
        let relay = try TamperingRelay(to: listener.address, threshold: 92_000)
        try nodes.enrol("b", at: "a", port: relay.address.port)
        let identity = try nodes.identity("a")
        let client = try Channel.connect(
            to: try #require(identity.peers["b"]), identity: identity, deadline: .after(milliseconds: soon))
        let server = try #require(arrived.take())
        try client.send(type: 1, payload: [UInt8](repeating: 1, count: 200_000))
        do throws(PeeringError) {
            _ = try server.receive(deadline: .after(milliseconds: soon))
            Issue.record("a damaged message was delivered")
        } catch PeeringError.tls(_, let reason) {
            #expect(reason.contains("bad record mac"))
        } catch { Issue.record("\(error)") }
        #expect(throws: PeeringError.closed) { try server.receive(deadline: .after(milliseconds: soon)) }
    }

    @Test func oversizedLengthClosesTheChannel() throws {
        let nodes = try Nodes("a", "b")
        try nodes.enrol("a", at: "b")
        let arrived = try Handover<Channel>()
        let listener = try nodes.listener("b") { arrived.give($0) }
        defer { listener.stop() }
        let identity = try nodes.identity("a")
        let peer = try nodes.peer("b", of: "a", at: listener)
        let raw = try open(peer, identity)
        let server = try #require(arrived.take())
        let header = FrameHeader(type: 1, flags: 0, length: 1 << 20 + 1).encoded()
        try header.withBytes { try raw.session.write($0) }
        var sealed = [UInt8](repeating: 0, count: 4096)
        try sealed.withMutableBytes { buffer in
            let count = raw.session.takeOutput(into: buffer)
            try Wire.sendAll(
                raw.socket, UnsafeRawBufferPointer(rebasing: buffer[..<count]), .after(milliseconds: soon))
        }
        #expect(throws: PeeringError.frame(.length(type: 1, length: 1 << 20 + 1, limit: 1 << 20))) {
            try server.receive(deadline: .after(milliseconds: soon))
        }
        #expect(throws: PeeringError.closed) { try server.send(type: 1) }
        #expect(throws: PeeringError.payloadTooLong(type: 1, length: 1 << 20 + 1, limit: 1 << 20)) {
            let other = try Channel.connect(to: peer, identity: identity, deadline: .after(milliseconds: soon))
            try other.send(type: 1, payload: [UInt8](repeating: 0, count: 1 << 20 + 1))
        }
    }

    private func open(
        _ peer: Peer, _ identity: Identity, hello: Hello? = nil
    ) throws -> OpenedConnection {
        let socket = try InternetSocket.make(family: AF_INET, type: InternetSocket.stream)
        try InternetSocket.connect(
            socket, to: SocketAddress(peer.address, port: peer.port)!, until: .after(milliseconds: soon))
        return try OpenedConnection(
            socket: socket, role: .client, identity: identity, peers: [peer], peerName: peer.name,
            hello: hello ?? Hello.current(nodeName: identity.name, features: []), limits: FrameLimits(),
            deadline: .after(milliseconds: soon))
    }

    @Test func versionsThatDoNotMeetAreNamedAtBothEnds() throws {
        let nodes = try Nodes("a", "b")
        try nodes.enrol("a", at: "b")
        let lines = try Handover<String>()
        let listener = try nodes.listener("b", log: { lines.give($0) }) { _ in Issue.record("accepted") }
        defer { listener.stop() }
        let peer = try nodes.peer("b", of: "a", at: listener)
        let identity = try nodes.identity("a")
        #expect(throws: PeeringError.incompatible(peer: "b", ours: 3...4, theirs: 2...2)) {
            _ = try open(peer, identity, hello: Hello.current(nodeName: "a", features: [], versions: 3...4))
        }
        #expect(try #require(lines.take()).contains("node a speaks protocol versions 3 to 4"))
    }

    @Test func silentServerMeetsTheDeadline() throws {
        let nodes = try Nodes("a", "b")
        let silent = try InternetSocket.make(family: AF_INET, type: InternetSocket.stream)
        try InternetSocket.bind(silent, to: SocketAddress("127.0.0.1", port: 0)!)
        try InternetSocket.listen(silent, backlog: 1)
        try nodes.enrol("b", at: "a", port: InternetSocket.localAddress(silent)!.port)
        let identity = try nodes.identity("a")
        let start = Clock.monotonic
        #expect(throws: PeeringError.timedOut(what: "TLS handshake with b")) {
            try Channel.connect(to: identity.peers["b"]!, identity: identity, deadline: .after(milliseconds: 200))
        }
        #expect((200...2000).contains((Clock.monotonic - start) / 1_000_000))
    }

    /// A stranger that connects and says nothing is put out, and a fifth of one address is not let in at all.
    @Test func silentClientsArePutOut() throws {
        let nodes = try Nodes("b")
        let listener = try nodes.listener("b", milliseconds: 400) { _ in Issue.record("accepted") }
        defer { listener.stop() }
        var sockets: [Int32] = []
        defer { for socket in sockets { close(socket) } }
        for _ in 0..<5 {
            let socket = try InternetSocket.make(family: AF_INET, type: InternetSocket.stream)
            try InternetSocket.connect(socket, to: listener.address, until: .after(milliseconds: soon))
            sockets.append(socket.release())
        }
        func endsWithin(_ socket: Int32, _ milliseconds: Int64) throws -> Bool {
            var byte: UInt8 = 0
            let found = try Poll.wait(socket, for: POLLIN, until: .after(milliseconds: milliseconds))
            return found != nil && recv(socket, &byte, 1, 0) <= 0
        }
        #expect(try endsWithin(sockets[4], 200))
        #expect(try !endsWithin(sockets[0], 50))
        for socket in sockets[..<4] { #expect(try endsWithin(socket, 2000)) }
    }

    /// A peer that is alive but does not read.
    @Test func unreadSendMeetsTheDeadline() throws {
        let nodes = try Nodes("a", "b")
        try nodes.enrol("a", at: "b")
        let limits = FrameLimits(bulkTypes: [2])
        let arrived = try Handover<Channel>()
        let listener = try nodes.listener("b", limits: limits) { arrived.give($0) }
        defer { listener.stop() }
        let client = try Channel.connect(
            to: nodes.peer("b", of: "a", at: listener), identity: nodes.identity("a"), limits: limits,
            deadline: .after(milliseconds: soon))
        let server = try #require(arrived.take())
        #expect(throws: PeeringError.timedOut(what: "send")) {
            try client.send(
                type: 2, payload: [UInt8](repeating: 0, count: 64 << 20), deadline: .after(milliseconds: 300))
        }
        #expect(throws: PeeringError.closed) { try client.send(type: 1) }
        server.close()
    }

    /// Prints the rate of large messages through the loopback interface.
    @Test func throughput() throws {
        let nodes = try Nodes("a", "b")
        try nodes.enrol("a", at: "b")
        let limits = FrameLimits(bulkTypes: [2])
        let arrived = try Handover<Channel>()
        let listener = try nodes.listener("b", limits: limits) { arrived.give($0) }
        defer { listener.stop() }
        let client = try Channel.connect(
            to: nodes.peer("b", of: "a", at: listener), identity: nodes.identity("a"), limits: limits,
            deadline: .after(milliseconds: soon))
        let server = try #require(arrived.take())
        let payload = [UInt8](repeating: 0x5a, count: 4 << 20)
        let rounds = 128
        try DetachedThread.start {
            do { for _ in 0..<rounds { try client.send(type: 2, payload: payload) } } catch { Issue.record("\(error)") }
        }
        let start = Clock.monotonic
        for _ in 0..<rounds {
            #expect(try server.receive(deadline: .after(milliseconds: 30_000)).payload.count == payload.count)
        }
        let seconds = Double(Clock.monotonic - start) / 1e9
        print("channel: \(Int(Double(rounds * payload.count) / seconds / 1e6)) MB/s in messages of 4 MiB")
        client.close()
    }
}
