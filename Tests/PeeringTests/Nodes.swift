import CKernel
import Glibc
import Kernel
import Synchronization

@testable import Peering

/// A directory that holds the /etc of several nodes and goes away with the value.
final class Nodes {
    let directory: String

    init(_ names: String...) throws {
        var template = Array("/tmp/peering-test-XXXXXX".utf8CString)
        guard let made = mkdtemp(&template) else { throw KernelError(call: "mkdtemp", object: "", code: .noEntry) }
        directory = String(cString: made)
        for name in names { try Enrolment.createIdentity(root: root(name), name: name) }
    }

    deinit {
        for node in (try? Files.list(directory)) ?? [] {
            let etc = "\(directory)/\(node)/etc/mobilityd"
            for part in (try? Files.list(etc + "/nodes")) ?? [] { unlink("\(etc)/nodes/\(part)") }
            rmdir(etc + "/nodes")
            for part in (try? Files.list(etc)) ?? [] { unlink("\(etc)/\(part)") }
            rmdir(etc)
            rmdir("\(directory)/\(node)/etc")
            rmdir("\(directory)/\(node)")
        }
        rmdir(directory)
    }

    func root(_ name: String) -> String { "\(directory)/\(name)" }
    func certificate(_ name: String) -> String { root(name) + "/etc/mobilityd/node.crt" }
    func identity(_ name: String) throws -> Identity { try Identity.load(root: root(name)) }

    /// `node` trusts `other`, said to be at 127.0.0.1.
    func enrol(_ other: String, at node: String, port: UInt16 = 7413) throws {
        try Enrolment.addPeer(
            root: root(node), name: other, address: "127.0.0.1", port: port, certificatePath: certificate(other))
    }

    /// What `node` knows of `other`, at the port of `listener`.
    func peer(_ other: String, of node: String, at listener: PeerListener) throws -> Peer {
        try enrol(other, at: node, port: listener.address.port)
        guard let peer = try identity(node).peers[other] else { throw PeeringError.closed }
        return peer
    }

    func listener(
        _ node: String, limits: FrameLimits = FrameLimits(), milliseconds: Int64 = 5000,
        log: @escaping PeerListener.Log = { _ in }, handler: @escaping PeerListener.Handler
    ) throws -> PeerListener {
        try PeerListener(
            address: "127.0.0.1", port: 0, identity: try identity(node), features: ["test"], limits: limits,
            handshakeMilliseconds: milliseconds, log: log, handler: handler)
    }
}

/// A value that one thread gives and another waits for.
final class Handover<Value: Sendable>: Sendable {
    private let values = Mutex<[Value]>([])
    private let event: FileDescriptor

    init() throws { event = FileDescriptor(owning: eventfd(0, Int32(EFD_CLOEXEC))) }

    func give(_ value: Value) {
        values.withLock { $0.append(value) }
        eventfd_write(event.raw, 1)
    }

    /// Nil when nothing came in time.
    func take(milliseconds: Int64 = 5000) -> Value? {
        let deadline = Deadline.after(milliseconds: milliseconds)
        while true {
            let value = values.withLock { $0.isEmpty ? nil : $0.removeFirst() }
            if let value { return value }
            guard ((try? Poll.wait(event.raw, for: POLLIN, until: deadline)) ?? nil) != nil else { return nil }
            var count: eventfd_t = 0
            eventfd_read(event.raw, &count)
        }
    }
}

/// A TCP relay that flips one bit once `threshold` bytes of the client have passed.
final class TamperingRelay: Sendable {
    let address: SocketAddress
    private let listener: FileDescriptor

    init(to target: SocketAddress, threshold: Int) throws {
        listener = try InternetSocket.make(family: AF_INET, type: InternetSocket.stream)
        try InternetSocket.bind(listener, to: SocketAddress("127.0.0.1", port: 0)!)
        try InternetSocket.listen(listener, backlog: 1)
        address = try InternetSocket.localAddress(listener)!
        try DetachedThread.start { try? self.relay(target, threshold) }
    }

    private func relay(_ target: SocketAddress, _ threshold: Int) throws {
        _ = try Poll.wait(listener.raw, for: POLLIN, until: .after(milliseconds: 5000))
        let client = try InternetSocket.accept(listener)
        let server = try InternetSocket.make(family: AF_INET, type: InternetSocket.stream)
        try InternetSocket.connect(server, to: target, until: .after(milliseconds: 5000))
        var seen = 0
        var buffer = [UInt8](repeating: 0, count: 65536)
        while true {
            var entries = [
                pollfd(fd: client.raw, events: Int16(POLLIN), revents: 0),
                pollfd(fd: server.raw, events: Int16(POLLIN), revents: 0),
            ]
            guard poll(&entries, 2, 5000) > 0 else { return }
            for (index, entry) in entries.enumerated() where entry.revents != 0 {
                let count = recv(entry.fd, &buffer, buffer.count, 0)
                if count <= 0 { return }
                if index == 0 {
                    if seen < threshold, seen + count >= threshold { buffer[threshold - seen - 1] ^= 1 }
                    seen += count
                }
                try Wire.sendAll(
                    FileDescriptor(owning: dup(index == 0 ? server.raw : client.raw)),
                    UnsafeRawBufferPointer(start: buffer, count: count), .after(milliseconds: 5000))
            }
        }
    }
}
