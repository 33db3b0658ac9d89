import CKernel
import Glibc
import Kernel
import KernelCapture
import ProcessImage

@testable import Resources

/// Three network namespaces on one bridge: `a` and `b` are hosts, `c` is the client.
struct SocketBench: ~Copyable {
    static let address4 = SocketName.ipv4([10, 77, 0, 1], port: 0).address
    static let address6: [UInt8] = [0xfd, 0x77] + [UInt8](repeating: 0, count: 13) + [1]
    private static let hostHardware = "02:00:00:00:00:77", clientHardware = "02:00:00:00:00:99"
    private let prefix: String

    init() throws {
        prefix = "mobtest-\(getpid())-\(UInt32.random(in: 0...0xffff))-"
        for name in ["a", "b", "c"] {
            try run("ip", "netns", "add", prefix + name)
            try run("ip", "-n", prefix + name, "link", "set", "lo", "up")
        }
        try run("ip", "-n", prefix + "c", "link", "add", "br0", "type", "bridge")
        for name in ["a", "b"] {
            try run(
                "ip", "-n", prefix + "c", "link", "add", "to-\(name)", "type", "veth", "peer", "name", "eth0", "netns",
                prefix + name)
            // One address of hardware for both: the client's neighbour entry stays right when the service moves.
            try run("ip", "-n", prefix + name, "link", "set", "eth0", "address", Self.hostHardware, "up")
            try run("ip", "-n", prefix + "c", "link", "set", "to-\(name)", "master", "br0", "up")
        }
        try run("ip", "-n", prefix + "c", "link", "set", "br0", "address", Self.clientHardware, "up")
        try run("ip", "-n", prefix + "c", "address", "add", "10.77.0.9/24", "dev", "br0")
        try run("ip", "-n", prefix + "c", "address", "add", "fd77::9/64", "dev", "br0", "nodad")
        // Known for good: an answer that comes late or not at all would be an error of the socket, if a soft one.
        for (address, family) in [("10.77.0.1", "-4"), ("fd77::1", "-6")] {
            try ip(
                "c", family, "neigh", "replace", address, "lladdr", Self.hostHardware, "dev", "br0", "nud", "permanent")
        }
        try ip("b", "link", "set", "eth0", "down")
        try addAddresses("a")
    }

    deinit {
        for name in ["a", "b", "c"] { try? run("ip", "netns", "delete", prefix + name) }
    }

    func ip(_ namespace: String, _ arguments: String...) throws {
        try run(["ip", "-n", prefix + namespace] + arguments)
    }

    func addAddresses(_ namespace: String) throws {
        try ip(namespace, "address", "add", "10.77.0.1/24", "dev", "eth0")
        try ip(namespace, "address", "add", "fd77::1/64", "dev", "eth0", "nodad")
        for (address, family) in [("10.77.0.9", "-4"), ("fd77::9", "-6")] {
            try ip(
                namespace, family, "neigh", "replace", address, "lladdr", Self.clientHardware, "dev", "eth0", "nud",
                "permanent")
        }
    }

    /// From now on `a` hears nothing and nothing leaves it, as the hold programs do: a frozen service's kernel still
    /// sends and acknowledges.
    func isolateSource() throws { try ip("c", "link", "set", "to-a", "down") }
    func reconnectSource() throws { try ip("c", "link", "set", "to-a", "up") }

    func connectDestination() throws {
        try ip("b", "link", "set", "eth0", "up")
        try addAddresses("b")
    }

    /// Nothing that arrives in `namespace` passes its input hook, as if it were lost on the way.
    func loseInput(_ namespace: String) throws {
        try run(
            "ip", "netns", "exec", prefix + namespace, "nft",
            "table inet lost { chain input { type filter hook input priority 0; meta l4proto tcp drop; }; }")
    }
    func keepInput(_ namespace: String) throws {
        try run("ip", "netns", "exec", prefix + namespace, "nft", "delete table inet lost")
    }

    /// `body` with this thread in the namespace.
    func inside<Value: ~Copyable>(_ namespace: String, _ body: () throws -> Value) throws -> Value {
        let home = try FileDescriptor.open("/proc/thread-self/ns/net", O_RDONLY)
        let target = try FileDescriptor.open("/run/netns/\(prefix)\(namespace)", O_RDONLY)
        func enter(_ raw: Int32) throws(KernelError) {
            try systemCall("setns") { ck_syscall(Int(SYS_setns), Int(raw), 0x4000_0000, 0, 0, 0, 0) }
        }
        try enter(target.raw)
        let homeNumber = home.raw
        defer { try? enter(homeNumber) }
        return try body()
    }

    private func run(_ words: String...) throws { try run(words) }
    private func run(_ words: [String]) throws {
        var pid = pid_t()
        var argv = words.map { strdup($0) } + [nil]
        defer { for word in argv { free(word) } }
        let code = posix_spawnp(&pid, words[0], nil, nil, &argv, environ)
        guard code == 0 else { throw Failure(text: "cannot start \(words): \(code)") }
        var status: Int32 = 0
        waitpid(pid, &status, 0)
        if status != 0 { throw Failure(text: "\(words.joined(separator: " ")) gave \(status)") }
    }
}

struct Failure: Error { var text: String }

/// The test's own process in the part of the frozen service.
final class OwnCapture: CaptureContext {
    var check: CheckContext
    private var held: [(Int32, @Sendable (Int32) -> Void)] = []

    init(addresses: [[UInt8]] = [SocketBench.address4, SocketBench.address6], descriptors: [DescriptorProbe] = []) {
        check = CheckContext(
            unit: "test.service", virtualAddresses: addresses, carryPaths: [], descriptors: descriptors)
    }
    func take(pid: Int32, number: Int32) throws(KernelError) -> FileDescriptor {
        try ProcessDescriptors.take(pid: pid, number: number)
    }
    func index(ofDescription identity: UInt64) -> Int32? { nil }
    func sharedMemoryIndex(device: UInt64, inode: UInt64) -> Int32? { nil }
    func identity(path: String, ofProcess pid: Int32) throws(KernelError) -> FileIdentity { FileIdentity(path: path) }
    func hold(_ descriptor: consuming FileDescriptor, undo: @escaping @Sendable (Int32) -> Void) {
        held.append((descriptor.release(), undo))
    }
    /// The move is committed: the source's copies go.
    func commit() {
        for (number, _) in held { _ = FileDescriptor(owning: number) }
        held = []
    }
    func rollBack() {
        for (number, undo) in held {
            undo(number)
            _ = FileDescriptor(owning: number)
        }
        held = []
    }
    deinit { commit() }
}

/// The test's own process in the part of an embryo.
final class OwnEmbryo: EmbryoPort {
    let pid = getpid()

    func call(_ number: Int32, _ arguments: EmbryoArgument..., on object: String) throws(KernelError) -> EmbryoResult {
        var words: [Int] = []
        var blocks: [UnsafeMutableRawBufferPointer] = []
        var outputs: [UnsafeMutableRawBufferPointer] = []
        for argument in arguments {
            switch argument {
            case .int(let value): words.append(value)
            case .bytes(let bytes), .exchange(let bytes):
                let block = UnsafeMutableRawBufferPointer.allocate(byteCount: max(1, bytes.count), alignment: 16)
                block.copyBytes(from: bytes)
                blocks.append(block)
                if case .exchange = argument { outputs.append(block) }
                words.append(Int(bitPattern: block.baseAddress))
            case .output(let size):
                let block = UnsafeMutableRawBufferPointer.allocate(byteCount: size, alignment: 16)
                block.initializeMemory(as: UInt8.self, repeating: 0)
                blocks.append(block)
                outputs.append(block)
                words.append(Int(bitPattern: block.baseAddress))
            }
        }
        defer { for block in blocks { block.deallocate() } }
        words += [Int](repeating: 0, count: 6 - words.count)
        let result = try systemCall("embryo", on: object) {
            ck_syscall(Int(number), words[0], words[1], words[2], words[3], words[4], words[5])
        }
        return EmbryoResult(value: result, outputs: outputs.map { Array($0) })
    }
    func take(_ number: Int32) throws(KernelError) -> FileDescriptor {
        try ProcessDescriptors.take(pid: pid, number: number)
    }
    func give(_ descriptor: borrowing FileDescriptor, minimum: Int32) throws(KernelError) -> Int32 {
        try descriptor.duplicate(minimum: minimum).release()
    }
}

final class OwnRestore: RestoreContext {
    let unit = "test.service"
    var image = ServiceImage(unit: "test.service")
    let port = OwnEmbryo()
    /// Description index to our number of it.
    var made: [Int32: Int32] = [:]
    var arrival: [Int32: Int32] = [:]
    var ids: CredentialsImage?
    var frozenNanoseconds: Int64 = 0
    let parked = ParkedDescriptors()
    var congestion: CongestionModule?

    func embryo(_ pid: Int32) -> (any EmbryoPort)? { pid == port.pid ? port : nil }
    func take(description index: Int32) throws(KernelError) -> FileDescriptor {
        guard let number = made[index] else {
            throw KernelError(call: "take", object: "\(index)", code: .badDescriptor)
        }
        return try ProcessDescriptors.take(pid: port.pid, number: number)
    }
    func take(sharedMemory index: Int32) throws(KernelError) -> FileDescriptor {
        throw KernelError(call: "take", object: "shared memory", code: .badDescriptor)
    }
    func takeArrival(_ number: Int32) throws(KernelError) -> FileDescriptor {
        try ProcessDescriptors.take(pid: port.pid, number: arrival[number] ?? -1)
    }
    func credentials(ofProcess pid: Int32) -> CredentialsImage? { ids }

    /// All descriptions of the image, in order of stages; those of `kinds` are made by them.
    func restoreAll() throws {
        for stage in RestoreStage.allCases {
            for index in image.descriptions.indices {
                let description = image.descriptions[index]
                guard let kind = DescriptorKinds.named(description.kind), kind.stage == stage else { continue }
                made[Int32(index)] = try kind.restore(
                    description, index: Int32(index), in: port, context: self)
            }
        }
    }
    func activateAll() throws {
        for index in image.descriptions.indices {
            let description = image.descriptions[index]
            try DescriptorKinds.named(description.kind)?.activate(description, index: Int32(index), context: self)
        }
    }
    func socket(_ index: Int32) -> FileDescriptor { FileDescriptor(owning: made.removeValue(forKey: index) ?? -1) }
}

/// What the capture module would tell of a socket, from getsockopt(2) and fstat(2).
func probe(_ socket: borrowing FileDescriptor) throws -> DescriptorProbe {
    let link = try Files.readLink("/proc/self/fd/\(socket.raw)")
    var probe = DescriptorProbe(pid: getpid(), number: socket.raw, link: link)
    let raw = socket.raw
    probe.flags = try systemCall("fcntl") { ck_fcntl(raw, F_GETFL, 0) }
    probe.inode = UInt64(link.dropFirst(8).dropLast()) ?? 0
    var record = SocketRecord()
    record.inode = probe.inode
    record.family = UInt16(try Socket.integer(socket, 1, 39))
    record.type = UInt16(try Socket.integer(socket, 1, 3))
    record.protocolNumber = UInt16(try Socket.integer(socket, 1, 38))
    let local = try Socket.localAddress(socket)
    let remote = try? Socket.remoteAddress(socket)
    if record.family == UInt16(AF_INET) || record.family == UInt16(AF_INET6) {
        record.localAddress = local.address
        record.localPort = local.port
        record.remoteAddress = remote?.address ?? [UInt8](repeating: 0, count: 16)
        record.remotePort = remote?.port ?? 0
    } else {
        record.unixName = local.unixName
        record.peerName = remote?.unixName ?? []
    }
    if record.protocolNumber == 6 {
        record.state = try TCP.Information(of: socket).state
        record.shutdown = TCP.peerFinished.contains(record.state) ? 1 : 0
        if TCP.finished.contains(record.state) { record.shutdown |= 2 }
    } else {
        record.state = (try Socket.integer(socket, 1, 30)) == 1 ? 10 : remote == nil ? 7 : 1
    }
    probe.socket = record
    return probe
}

extension OwnCapture {
    func describe(_ probe: DescriptorProbe) throws -> DescriptionImage {
        guard let kind = DescriptorKinds.kind(of: probe) else { throw Failure(text: "no kind for \(probe)") }
        return DescriptionImage(
            kind: kind.name, statusFlags: probe.flags, payload: try kind.capture(probe, in: self))
    }
}
