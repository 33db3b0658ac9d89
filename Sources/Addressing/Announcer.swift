import CKernel
import Glibc
import Kernel
import Synchronization

/// Tells the link that this host owns an address now: gratuitous ARP, RFC 5227 section 3, or an unsolicited
/// neighbour advertisement, RFC 4861 section 7.2.6.
///
/// What takes time is making and closing the packet socket, which waits for a grace period of RCU (packet_release in
/// net/packet/af_packet.c), 20 ms here: who has none to lose makes this beforehand and lets it go afterwards.
public final class Announcement: Sendable {
    private let socket: PacketSocket
    private let frames: [[UInt8]]

    public init(_ address: VirtualAddress, on interface: NetworkInterface) throws(AddressingError) {
        do throws(KernelError) {
            frames = OwnershipFrames.announcements(address, from: try interface.hardwareAddress())
            socket = try PacketSocket(interface: interface, etherType: OwnershipFrames.etherType(address))
        } catch {
            throw .kernel(error)
        }
    }

    /// Sends it, in microseconds.
    public func send() throws(AddressingError) {
        try kernel { () throws(KernelError) in
            for frame in frames { try socket.send(frame) }
        }
    }

    /// Makes and sends one announcement.
    public static func once(_ address: VirtualAddress, on interface: NetworkInterface) throws(AddressingError) {
        try Announcement(address, on: interface).send()
    }
}

/// Repeats an announcement on a schedule, from a thread of its own, until the schedule or the ownership ends.
///
/// Repetition matters: a client ignores a change that follows another too soon (net.ipv4.neigh.*.locktime), and a
/// frame may be lost. The thread is in the network namespace of the thread that made the announcer.
public final class Announcer: Sendable {
    /// Milliseconds after the start.
    public static let defaultSchedule = [0, 50, 200, 1000, 5000]

    private let lastFailure: Shared
    private let thread: StoppableThread

    private final class Shared: Sendable {
        let failure = Mutex<AddressingError?>(nil)
    }

    /// Starts to announce.
    public init(
        _ address: VirtualAddress, on interface: NetworkInterface, schedule: [Int] = Announcer.defaultSchedule
    ) throws(AddressingError) {
        let shared = Shared()
        lastFailure = shared
        let start = Clock.monotonic
        thread = try StoppableThread("announcer") { stop in
            for moment in schedule.sorted() {
                var entry = pollfd(fd: stop, events: Int16(POLLIN), revents: 0)
                while true {
                    let left = (start - Clock.monotonic) / 1_000_000 + Int64(moment)
                    let ready = poll(&entry, 1, Int32(clamping: max(0, left)))
                    if ready > 0 { return }
                    if ready == 0 || ck_errno() != EINTR { break }
                }
                do throws(AddressingError) {
                    try Announcement.once(address, on: interface)
                } catch {
                    shared.failure.withLock { $0 = error }
                }
            }
        }
    }

    /// The last send that failed, if any did.
    public var failure: AddressingError? { lastFailure.failure.withLock { $0 } }

    /// Stops at once: when this returns, nothing more is sent. Repeatable.
    public func cancel() { thread.cancel() }
}
