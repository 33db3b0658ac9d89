import CKernel
import Glibc

/// What happens to interfaces and addresses in a network namespace, as rtnetlink(7) tells its groups.
public struct RouteMonitor: ~Copyable, Sendable {
    public enum Event: Equatable, Sendable {
        /// An address went from an interface; 4 or 16 bytes and the prefix length it had.
        case addressRemoved(interface: Int32, bytes: [UInt8], prefix: Int)
        /// An interface changed; `carrier` is IFF_LOWER_UP.
        case linkChanged(interface: Int32, carrier: Bool)
        /// The kernel had more to say than fits: whatever matters must be looked up.
        case overrun
    }

    public let descriptor: FileDescriptor

    /// Subscribes in the calling thread's network namespace to what happens to interfaces and to the removal of
    /// addresses; who adds a thousand wakes nobody.
    public init() throws(KernelError) {
        let type = Int32(SOCK_RAW.rawValue) | ck_sock_cloexec() | ck_sock_nonblock()
        let raw = try systemCall("socket", on: "NETLINK_ROUTE") { socket(AF_NETLINK, type, 0) }
        let owner = FileDescriptor(owning: raw)
        // struct sockaddr_nl: family, padding, port (kernel's choice), groups LINK | IPV4_IFADDR | IPV6_IFADDR.
        let name: [UInt32] = [UInt32(AF_NETLINK), 0, 0x1 | 0x10 | 0x100]
        try PacketSocket.attach(Self.filter, to: owner)
        try systemCall("bind", on: "NETLINK_ROUTE") {
            name.withUnsafeBytes {
                bind(raw, $0.baseAddress!.assumingMemoryBound(to: sockaddr.self), socklen_t($0.count))
            }
        }
        descriptor = owner
    }

    /// BPF loads as the network does, and netlink writes as the host does: the numbers are turned round.
    private static let filter: [PacketSocket.FilterInstruction] = [
        .init(0x28, 4),  // nlmsg_type
        .init(0x15, UInt32(UInt16(16).byteSwapped), ifTrue: 1),  // RTM_NEWLINK
        .init(0x15, UInt32(UInt16(21).byteSwapped), ifFalse: 1),  // RTM_DELADDR
        .init(0x06, 0x40000), .init(0x06, 0),
    ]

    /// What has come in; empty when nothing has.
    public func events() throws(KernelError) -> [Event] {
        do throws(KernelError) {
            return Self.parse(try descriptor.read(upTo: 65536))
        } catch  where error.code == .again {
            return []
        } catch  where error.code.rawValue == ENOBUFS {
            return [.overrun]
        }
    }

    /// The events in one datagram of messages: struct nlmsghdr, then struct ifinfomsg or ifaddrmsg, then attributes.
    public static func parse(_ bytes: [UInt8]) -> [Event] {
        var events: [Event] = []
        var offset = 0
        func load<Value: FixedWidthInteger>(_ at: Int, _ type: Value.Type) -> Value {
            bytes.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: at, as: Value.self) }
        }
        while offset + 32 <= bytes.count {
            let length = Int(load(offset, UInt32.self))
            guard length >= 24, offset + length <= bytes.count else { break }
            let interface = load(offset + 20, Int32.self)
            switch load(offset + 4, UInt16.self) {
            case 16 where length >= 32:  // RTM_NEWLINK
                let flags = load(offset + 24, UInt32.self)
                events.append(.linkChanged(interface: interface, carrier: flags & 0x10000 != 0))
            case 21:  // RTM_DELADDR
                if let address = address(in: Array(bytes[offset + 24..<offset + length])) {
                    events.append(
                        .addressRemoved(interface: interface, bytes: address, prefix: Int(bytes[offset + 17])))
                }
            default: break
            }
            offset += (length + 3) & ~3
        }
        return events
    }

    /// IFA_LOCAL (2) if there is one, else IFA_ADDRESS (1).
    private static func address(in attributes: [UInt8]) -> [UInt8]? {
        var offset = 0
        var found: [UInt8]?
        while offset + 4 <= attributes.count {
            let length = Int(attributes[offset]) | Int(attributes[offset + 1]) << 8
            guard length >= 4, offset + length <= attributes.count else { break }
            let type = Int(attributes[offset + 2]) | Int(attributes[offset + 3]) << 8
            if type == 2 || (type == 1 && found == nil) { found = Array(attributes[offset + 4..<offset + length]) }
            offset += (length + 3) & ~3
        }
        return found
    }
}
