import CKernel
import Glibc
import Kernel
import ProcessImage
import Testing

@testable import Resources

@Suite(.serialized) struct UnixSocketTests {
    /// Both ends of a pair as the capture module would tell of them.
    private func probes(_ pair: borrowing Socket.Pair) throws -> [DescriptorProbe] {
        var first = try probe(pair.first)
        var second = try probe(pair.second)
        first.socket?.state = TCP.established
        second.socket?.state = TCP.established
        first.socket?.peerInode = second.inode
        second.socket?.peerInode = first.inode
        return [first, second]
    }

    @Test(arguments: [Int32(1), 2, 5]) func carriesPair(type: Int32) throws {
        let pair = try Socket.makePair(type)
        try Socket.sendAll(pair.first, pattern(70), chunk: 30)
        try Socket.sendAll(pair.second, pattern(50), chunk: 50)
        if type == 1 { try Socket.shutdown(pair.first, 1) }
        try Socket.setInteger(pair.first, 1, 12, 5)
        var found = try probes(pair)
        if type == 1 {
            found[0].socket?.shutdown = 2
            found[1].socket?.shutdown = 1
        }
        let capture = OwnCapture(descriptors: found)
        for probe in found { #expect(DescriptorKinds.check(probe, in: capture.check).isEmpty) }
        let restore = OwnRestore()
        restore.image.descriptions = try found.map { try capture.describe($0) }
        try restore.restoreAll()
        let first = restore.socket(0)
        let second = restore.socket(1)
        #expect(try receiveAll(first, 50) == pattern(50))
        if type == 1 {
            #expect(try receiveAll(second, 71) == pattern(70))
        } else {
            #expect(try receiveAll(second, 30) == Array(pattern(70)[..<30]))
            #expect(try receiveAll(second, 30) == Array(pattern(70)[30..<60]))
            #expect(try receiveAll(second, 10) == Array(pattern(70)[60...]))
        }
        #expect(try Socket.integer(first, 1, 12) == 5)
        try Socket.sendAll(second, pattern(9))
        #expect(try receiveAll(first, 9) == pattern(9))
        // Looking did not empty the source's queues.
        #expect(try Socket.readable(pair.first) > 0)
    }

    @Test func carriesDanglingEnd() throws {
        let pair = try Socket.makePair(1)
        let end = try pair.first.duplicate()
        try Socket.sendAll(pair.second, pattern(40))
        _ = consume pair
        var found = try probe(end)
        found.socket?.state = TCP.established
        found.socket?.shutdown = 3
        let capture = OwnCapture(descriptors: [found])
        #expect(DescriptorKinds.check(found, in: capture.check).isEmpty)
        let restore = OwnRestore()
        restore.image.descriptions = [try capture.describe(found)]
        try restore.restoreAll()
        #expect(try receiveAll(restore.socket(0), 41) == pattern(40))
    }

    @Test func refusesDescriptorsInFlight() throws {
        let pair = try Socket.makePair(1)
        var byte: [UInt8] = [1]
        var control = [UInt8](repeating: 0, count: 24)
        control.replaceSubrange(0..<16, with: [20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0])
        let sender = pair.second.raw
        let sent = byte.withUnsafeMutableBytes { data in
            control.withUnsafeMutableBytes { ancillary in
                var vector = iovec(iov_base: data.baseAddress, iov_len: 1)
                return withUnsafeMutablePointer(to: &vector) { pointer in
                    var header = msghdr()
                    header.msg_iov = pointer
                    header.msg_iovlen = 1
                    header.msg_control = ancillary.baseAddress
                    header.msg_controllen = 24
                    return sendmsg(sender, &header, 0)
                }
            }
        }
        #expect(sent == 1)
        let found = try probes(pair)
        do throws(ResourceError) {
            _ = try UnixPair.capture(found[0], in: OwnCapture(descriptors: found))
            Issue.record("descriptors in flight were overlooked")
        } catch {
            #expect(TransientProblem.matches(error))
        }
    }

    @Test func carriesListenerAtPath() throws {
        let path = "/tmp/mobility-test-\(getpid()).socket"
        defer { unlink(path) }
        let listener = try Socket.make(AF_UNIX, 1, 0)
        try Socket.bind(listener, .unix(Array(path.utf8)))
        chmod(path, 0o620)
        chown(path, 12, 34)
        try Socket.listen(listener, backlog: 3)
        let capture = OwnCapture()
        let restore = OwnRestore()
        restore.ids = CredentialsImage()
        restore.ids?.effectiveUser = 65534
        restore.ids?.fileSystemUser = 65534
        restore.image.descriptions = [try capture.describe(try probe(listener))]
        _ = consume listener
        try restore.restoreAll()
        let moved = restore.socket(0)
        let node = try #require(SocketNode(path: path))
        #expect(node.mode & 0o7777 == 0o620)
        #expect(node.user == 12)
        #expect(node.group == 34)
        let client = try Socket.make(AF_UNIX, 1, 0)
        try Socket.connect(client, .unix(Array(path.utf8)))
        // The peer's user is the service's, not the daemon's.
        #expect(try Socket.option(client, 1, 17, limit: 12)[4..<8] == [0xfe, 0xff, 0, 0])
        try Socket.sendAll(client, pattern(3))
        #expect(try receiveAll(try Socket.accept(moved), 3) == pattern(3))
    }

    @Test func refusesForeignPeerByName() throws {
        let path = "/tmp/mobility-test-\(getpid())-peer.socket"
        defer { unlink(path) }
        let listener = try Socket.make(AF_UNIX, 1, 0)
        try Socket.bind(listener, .unix(Array(path.utf8)))
        try Socket.listen(listener, backlog: 3)
        let client = try Socket.make(AF_UNIX, 1, 0)
        try Socket.connect(client, .unix(Array(path.utf8)))
        var found = try probe(client)
        found.socket?.peerInode = 1
        let refusals = DescriptorKinds.check(found, in: OwnCapture(descriptors: [found]).check)
        #expect(refusals.count == 1)
        #expect(refusals.first?.object.contains(path) == true)
        #expect(refusals.first?.why.contains("\(getpid())") == true)
    }

    @Test func carriesUDPAndNetlink() throws {
        let server = try Socket.make(AF_INET, 2, 0)
        try Socket.bind(server, .ipv4([127, 0, 0, 1], port: 0))
        try Socket.setInteger(server, 0, 1, 0x10)
        let address = try Socket.localAddress(server)
        let netlink = try Socket.make(AF_NETLINK, 3, 0)
        try Socket.setInteger(netlink, 270, 1, 1)
        let capture = OwnCapture()
        let restore = OwnRestore()
        restore.image.descriptions = [
            try capture.describe(try probe(server)), try capture.describe(try probe(netlink)),
        ]
        _ = consume server
        _ = consume netlink
        try restore.restoreAll()
        let moved = restore.socket(0)
        #expect(try Socket.localAddress(moved) == address)
        #expect(try Socket.integer(moved, 0, 1) == 0x10)
        #expect(try Socket.option(restore.socket(1), 270, 9, limit: 8)[0] & 1 == 1)
    }

    @Test(arguments: [false, true]) func carriesBoundDatagrams(abstract: Bool) throws {
        let path = "/tmp/mobility-test-\(getpid())-datagram.socket"
        defer { unlink(path) }
        let name = SocketName.unix((abstract ? [0] : []) + Array(path.utf8))
        let receiver = try Socket.make(AF_UNIX, 2, 0)
        try Socket.bind(receiver, name)
        let sender = try Socket.make(AF_UNIX, 2, 0)
        for count in [10, 300, 7] { try Socket.send(sender, pattern(count), to: name) }
        let capture = OwnCapture()
        let restore = OwnRestore()
        restore.image.descriptions = [try capture.describe(try probe(receiver))]
        _ = consume receiver
        try restore.restoreAll()
        let moved = restore.socket(0)
        for count in [10, 300, 7] { #expect(try Socket.receive(moved, upTo: 4000, flags: 0x40) == pattern(count)) }
        try Socket.send(sender, pattern(5), to: name)
        #expect(try Socket.receive(moved, upTo: 4000, flags: 0x40) == pattern(5))
    }
}
