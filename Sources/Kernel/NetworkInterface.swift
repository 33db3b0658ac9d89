import CKernel
import Glibc

/// A network interface of the calling thread's network namespace, netdevice(7), by name.
///
/// Every call makes its own socket, so it works in whichever namespace the thread is in at that moment.
public struct NetworkInterface: Hashable, Sendable {
    public let name: String
    public let index: Int32

    /// Looks the name up with SIOCGIFINDEX; ENODEV if there is no such interface.
    public init(named name: String) throws(KernelError) {
        guard !name.isEmpty, name.utf8.count < Int(IFNAMSIZ) else {
            throw KernelError(call: "ioctl", object: name, code: Errno(rawValue: ENODEV))
        }
        self.name = name
        self.index = try Self.request(name, 0x8933, Int32(0)).load(at: 0)
    }

    /// The interface with this index.
    public init(index: Int32) throws(KernelError) {
        var buffer = [CChar](repeating: 0, count: Int(IFNAMSIZ))
        guard if_indextoname(UInt32(index), &buffer) != nil else {
            throw KernelError(call: "if_indextoname", object: "interface \(index)", code: Errno(rawValue: ck_errno()))
        }
        self.name = String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        self.index = index
    }

    /// The six bytes of an Ethernet address (SIOCGIFHWADDR).
    public func hardwareAddress() throws(KernelError) -> [UInt8] {
        Array(try Self.request(name, 0x8927, Int32(0)).bytes[2..<8])
    }

    /// Sets the Ethernet address (SIOCSIFHWADDR); the interface should be down.
    public func setHardwareAddress(_ address: [UInt8]) throws(KernelError) {
        var request = Request(name)
        request.store(UInt16(1), at: 0)  // ARPHRD_ETHER
        for (index, byte) in address.prefix(6).enumerated() { request.store(byte, at: 2 + index) }
        _ = try Self.submit(&request, 0x8924)
    }

    /// Largest packet without the link header, in bytes (SIOCGIFMTU).
    public func mtu() throws(KernelError) -> Int32 { try Self.request(name, 0x8921, Int32(0)).load(at: 0) }

    public func setMTU(_ mtu: Int32) throws(KernelError) { _ = try Self.request(name, 0x8922, mtu) }

    /// How many packets the transmit queue takes (SIOCSIFTXQLEN); on a tap also how many wait for its reader.
    public func setTransmitQueueLength(_ packets: Int32) throws(KernelError) {
        _ = try Self.request(name, 0x8943, packets)
    }

    /// IFF_UP and the like (SIOCGIFFLAGS).
    public func flags() throws(KernelError) -> Int32 {
        let flags: UInt16 = try Self.request(name, 0x8913, Int32(0)).load(at: 0)
        return Int32(flags)
    }

    /// Adds to the interface's flags (SIOCSIFFLAGS).
    public func setFlags(adding added: Int32) throws(KernelError) {
        _ = try Self.request(name, 0x8914, try flags() | added)
    }

    /// struct ifreq: a name and a union of 24 bytes.
    private struct Request {
        let name: String
        var bytes = [UInt8](repeating: 0, count: 40)

        init(_ name: String) {
            self.name = name
            for (index, byte) in name.utf8.prefix(Int(IFNAMSIZ) - 1).enumerated() { bytes[index] = byte }
        }

        mutating func store<Value: BitwiseCopyable>(_ value: Value, at offset: Int) {
            bytes.withUnsafeMutableBytes { $0.storeBytes(of: value, toByteOffset: 16 + offset, as: Value.self) }
        }
    }

    private struct Reply {
        let bytes: [UInt8]
        func load<Value: BitwiseCopyable>(at offset: Int) -> Value {
            bytes.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: offset, as: Value.self) }
        }
    }

    private static func request(_ name: String, _ number: UInt, _ argument: Int32) throws(KernelError) -> Reply {
        var request = Request(name)
        request.store(argument, at: 0)
        return try submit(&request, number)
    }

    private static func submit(_ request: inout Request, _ number: UInt) throws(KernelError) -> Reply {
        let raw = try systemCall("socket") { socket(AF_INET, Int32(SOCK_DGRAM.rawValue) | ck_sock_cloexec(), 0) }
        let control = FileDescriptor(owning: raw)
        let name = request.name
        try systemCall("ioctl", on: name) {
            request.bytes.withUnsafeMutableBytes { ck_ioctl(control.raw, number, $0.baseAddress) }
        }
        return Reply(bytes: Array(request.bytes[16...]))
    }
}
