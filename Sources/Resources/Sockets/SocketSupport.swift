import CKernel
import Glibc
import Kernel
import KernelCapture
import ProcessImage

/// Problems of a capture that pass by themselves: the migration thaws the service, waits a little and tries again.
public enum TransientProblem {
    /// accept(2) has not yet taken every connection of a listener.
    public static let pendingConnections = "connections wait in its accept queue"
    /// The connection has been reset, or its handshake ended, between the check and the freeze.
    public static let stateChanged = "the connection changed its state during the capture"
    /// A message that a peek cannot show whole is still in a queue.
    public static let unreadMessages = "messages that cannot be carried wait in its queue"

    public static func matches(_ error: ResourceError) -> Bool {
        [pendingConnections, stateChanged, unreadMessages].contains { error.problem.hasPrefix($0) }
    }
}

/// Descriptors that one restore made for another: the second end of a socket pair, until its turn comes.
public final class ParkedDescriptors {
    private var numbers: [Int32: Int32] = [:]

    public init() {}

    /// Keeps `descriptor` for the description with this index.
    public func park(_ descriptor: consuming FileDescriptor, description index: Int32) {
        if let old = numbers.updateValue(descriptor.release(), forKey: index) { _ = FileDescriptor(owning: old) }
    }

    /// Hands it out, once.
    public func take(description index: Int32) -> FileDescriptor? {
        guard let number = numbers.removeValue(forKey: index) else { return nil }
        return FileDescriptor(owning: number)
    }

    /// Sends a segment through a raw socket that is kept for the next one's: no description has a negative index.
    func send(_ segment: TCPSegment, acknowledging acknowledgement: UInt32, _ family: Int32) throws(KernelError) {
        let sender: FileDescriptor
        if let kept = take(description: -family) { sender = kept } else { sender = try TCPSegment.sender(family) }
        try segment.send(acknowledging: acknowledgement, [.ack], through: sender)
        park(sender, description: -family)
    }

    deinit {
        for number in numbers.values { _ = FileDescriptor(owning: number) }
    }
}

extension DescriptorProbe {
    var isSocket: Bool { link.hasPrefix("socket:[") && socket != nil }

    /// A socket of one of these families and this type.
    func isSocket(families: [Int32], type: UInt16) -> Bool {
        guard isSocket, let socket else { return false }
        return families.contains(Int32(socket.family)) && socket.type == type
    }

    /// Both ends of an internet socket, for messages.
    var endpoints: String {
        guard let socket else { return link }
        let local = SocketName.text(socket.localAddress) + ":\(socket.localPort)"
        if socket.remotePort == 0 { return local }
        return local + " ↔ " + SocketName.text(socket.remoteAddress) + ":\(socket.remotePort)"
    }

    func socketRefusal(_ object: String, _ why: String, remedy: String) -> Refusal {
        Refusal(pid: pid, subject: "fd \(number)", object: object, why: why, remedy: remedy)
    }
}

extension CheckContext {
    /// The address stays with the service (a virtual one) or is there on every host.
    func isCarried(_ address: [UInt8]) -> Bool {
        virtualAddresses.contains(address) || SocketName.isWildcard(address)
            || SocketName.isLoopback(address)
    }
}

enum SocketMaker {
    struct Wish {
        var family: Int32
        var type: Int32
        var protocolNumber: Int32
    }

    static func make(
        _ family: Int32, _ type: Int32, _ protocolNumber: Int32, in embryo: any EmbryoPort,
        context: any RestoreContext
    ) throws(KernelError) -> Int32 {
        try make([Wish(family: family, type: type, protocolNumber: protocolNumber)], in: embryo, context: context)[0]
    }

    /// socket(2) in the embryo, so that the sockets have the unit's cgroup, and under the file-system ids of the
    /// service, which become the sockets' `sk_uid`. All in one round trip: the embryo must be woken for each.
    static func make(
        _ wishes: [Wish], in embryo: any EmbryoPort, context: any RestoreContext
    ) throws(KernelError) -> [Int32] {
        let ids = context.credentials(ofProcess: embryo.pid)
        func setIDs(_ call: Int32, _ argument: EmbryoArgument, distance: Int? = nil) -> EmbryoCall {
            EmbryoCall(call, [argument], on: "socket", takes: distance.map { (argument: 0, distance: $0) })
        }
        // setfsuid(2) and setfsgid(2) answer with the id before, which the last two calls put back.
        let calls =
            [
                setIDs(Int32(SYS_setfsgid), .int(Int(ids?.fileSystemGroup ?? 0))),
                setIDs(Int32(SYS_setfsuid), .int(Int(ids?.fileSystemUser ?? 0))),
            ]
            + wishes.map {
                EmbryoCall(
                    Int32(SYS_socket), [.int($0.family), .int($0.type | 0o2000000), .int($0.protocolNumber)],
                    on: "family \($0.family) type \($0.type)", mustSucceed: false)
            } + [
                setIDs(Int32(SYS_setfsuid), .int(0), distance: wishes.count + 1),
                setIDs(Int32(SYS_setfsgid), .int(0), distance: wishes.count + 3),
            ]
        let made = try embryo.values(of: calls).dropFirst(2).prefix(wishes.count).map { Int32(clamping: $0) }
        for (wish, number) in zip(wishes, made) where number < 0 {
            throw KernelError(
                call: "socket", object: "family \(wish.family) type \(wish.type)", code: Errno(rawValue: -number))
        }
        return made
    }

    /// `body` in the embryo under the service's effective ids: what SO_PEERCRED will tell of it.
    static func asService<Value>(
        in embryo: any EmbryoPort, context: any RestoreContext, _ body: () throws(KernelError) -> Value
    ) throws(KernelError) -> Value {
        guard let ids = context.credentials(ofProcess: embryo.pid), ids.effectiveUser != 0 || ids.effectiveGroup != 0
        else { return try body() }
        try embryo.call(SYS_setresgid, .int(-1), .int(Int(ids.effectiveGroup)), .int(-1), on: "socket")
        try embryo.call(SYS_setresuid, .int(-1), .int(Int(ids.effectiveUser)), .int(-1), on: "socket")
        let result: Result<Value, KernelError>
        do throws(KernelError) { result = .success(try body()) } catch { result = .failure(error) }
        try embryo.call(SYS_setresuid, .int(-1), .int(0), .int(-1), on: "socket")
        try embryo.call(SYS_setresgid, .int(-1), .int(0), .int(-1), on: "socket")
        return try result.get()
    }

    /// bind(2) to an address that this host may not have yet: the virtual address moves while we work.
    static func bind(_ socket: borrowing FileDescriptor, _ address: SocketName) throws(KernelError) {
        let (level, name) = transparency(address.family)
        let old = try Socket.integer(socket, level, name)
        try Socket.setInteger(socket, level, name, 1)
        try Socket.bind(socket, address)
        try Socket.setInteger(socket, level, name, old)
    }

    static func transparency(_ family: Int32) -> (Int32, Int32) {
        family == AF_INET
            ? (SocketOption.ip, SocketOption.transparent) : (SocketOption.ipv6, SocketOption.transparent6)
    }
}
