import CKernel
import Glibc
import Kernel
import Synchronization

/// Tells the link that this host owns an address now: gratuitous ARP, RFC 5227 section 3, or an unsolicited
/// neighbour advertisement, RFC 4861 section 7.2.6.
public enum Announcement {
    /// Sends one announcement at once.
    public static func once(_ address: VirtualAddress, on interface: NetworkInterface) throws(AddressingError) {
        try kernel { () throws(KernelError) in
            let hardware = try interface.hardwareAddress()
            let socket = try PacketSocket(interface: interface, etherType: OwnershipFrames.etherType(address))
            for frame in OwnershipFrames.announcements(address, from: hardware) { try socket.send(frame) }
        }
    }
}

/// Repeats an announcement on a schedule, from a thread of its own, until the schedule or the ownership ends.
///
/// Repetition matters: a client ignores a change that follows another too soon (net.ipv4.neigh.*.locktime), and a
/// frame may be lost. The thread is in the network namespace of the thread that made the announcer.
public final class Announcer: Sendable {
    /// Milliseconds after the start.
    public static let defaultSchedule = [0, 50, 200, 1000, 5000]

    private final class Shared: Sendable {
        let address: VirtualAddress
        let interface: NetworkInterface
        let schedule: [Int]
        let stop: FileDescriptor
        let failure = Mutex<AddressingError?>(nil)

        init(_ address: VirtualAddress, _ interface: NetworkInterface, _ schedule: [Int], stop: consuming FileDescriptor)
        {
            self.address = address
            self.interface = interface
            self.schedule = schedule
            self.stop = stop
        }

        func run() {
            let start = Clock.monotonic
            for moment in schedule.sorted() {
                let left = (start - Clock.monotonic) / 1_000_000 + Int64(moment)
                var entry = pollfd(fd: stop.raw, events: Int16(POLLIN), revents: 0)
                while true {
                    let ready = poll(&entry, 1, Int32(max(0, left)))
                    if ready > 0 { return }
                    if ready == 0 || ck_errno() != EINTR { break }
                }
                do throws(AddressingError) {
                    try Announcement.once(address, on: interface)
                } catch {
                    failure.withLock { $0 = error }
                }
            }
        }
    }

    private let shared: Shared
    private let thread: Mutex<pthread_t?>

    /// Starts to announce.
    public init(
        _ address: VirtualAddress, on interface: NetworkInterface, schedule: [Int] = Announcer.defaultSchedule
    ) throws(AddressingError) {
        let raw = try kernel { () throws(KernelError) in
            try systemCall("eventfd") { eventfd(0, Int32(EFD_CLOEXEC)) }
        }
        let shared = Shared(address, interface, schedule, stop: FileDescriptor(owning: raw))
        var handle = pthread_t()
        let argument = Unmanaged.passRetained(shared)
        let code = pthread_create(
            &handle, nil,
            { argument in
                guard let argument else { return nil }
                Unmanaged<Shared>.fromOpaque(argument).takeRetainedValue().run()
                return nil
            }, argument.toOpaque())
        guard code == 0 else {
            argument.release()
            throw .kernel(KernelError(call: "pthread_create", object: "announcer", code: Errno(rawValue: code)))
        }
        self.shared = shared
        self.thread = Mutex(handle)
    }

    deinit { cancel() }

    /// The last send that failed, if any did.
    public var failure: AddressingError? { shared.failure.withLock { $0 } }

    /// Stops at once: when this returns, nothing more is sent. Repeatable.
    public func cancel() {
        guard let handle = thread.withLock({ $0.take() }) else { return }
        var one: UInt64 = 1
        _ = write(shared.stop.raw, &one, 8)
        pthread_join(handle, nil)
    }
}
