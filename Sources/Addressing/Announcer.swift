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
    private let places: [(VirtualAddress, NetworkInterface)]
    private let links: [LinkSocket.Key: LinkSocket]

    /// For all addresses of a service: a socket an interface and family.
    public init(_ places: [(VirtualAddress, NetworkInterface)]) throws(AddressingError) {
        self.places = places
        links = try LinkSocket.open(for: places)
    }

    /// Sends it, in microseconds for a few addresses; of many, 32 a millisecond (`FramePace`).
    public func send() throws(AddressingError) {
        var pace = FramePace()
        for (address, interface) in places {
            try links[LinkSocket.Key(address, on: interface)]?.announce(address)
            pace.step()
        }
    }

    /// Makes and sends one announcement.
    public static func once(_ address: VirtualAddress, on interface: NetworkInterface) throws(AddressingError) {
        try Announcement([(address, interface)]).send()
    }
}

/// Repeats announcements on a schedule, all from one thread, until an address's schedule or its ownership ends.
///
/// Repetition matters: a client ignores a change that follows another too soon (net.ipv4.neigh.*.locktime), and a
/// frame may be lost. The thread is in the network namespace of the thread that made the announcer.
public final class Announcer: Sendable {
    /// Milliseconds after the start.
    public static let defaultSchedule = [0, 50, 200, 1000, 5000]

    private let speaker: Speaker
    private let thread: StoppableThread

    public init() throws(AddressingError) {
        let speaker = try Speaker()
        self.speaker = speaker
        thread = try StoppableThread("announcer") { speaker.run(stop: $0) }
    }

    /// Announces the addresses at these moments, milliseconds from now; an earlier schedule of any of them ends.
    public func announce(
        _ places: [(VirtualAddress, NetworkInterface)], schedule: [Int] = Announcer.defaultSchedule
    ) throws(AddressingError) {
        try speaker.add(places, schedule)
    }

    /// The last send that failed, if any did.
    public var failure: AddressingError? { speaker.state.withLock { $0.failure } }

    /// Stops at once: when this returns, nothing more is sent for these. Repeatable.
    public func cancel(_ addresses: [VirtualAddress]) { speaker.remove(addresses) }

    /// Stops all, and the thread. Repeatable.
    public func cancel() { thread.cancel() }
}

/// What the thread of an `Announcer` does.
private final class Speaker: Sendable {
    struct Pending {
        let address: VirtualAddress
        let link: LinkSocket
        /// CLOCK_MONOTONIC, ns, the next one last.
        var moments: [Int64]
    }

    struct State {
        var pending: [[UInt8]: Pending] = [:]
        var failure: AddressingError?
    }

    /// Held while something is sent.
    let state = Mutex(State())
    /// By which the thread hears of a schedule.
    private let changed: EventCounter

    init() throws(AddressingError) {
        changed = try kernel { () throws(KernelError) in try EventCounter() }
    }

    func add(_ places: [(VirtualAddress, NetworkInterface)], _ schedule: [Int]) throws(AddressingError) {
        let now = Clock.monotonic
        let moments = schedule.sorted(by: >).map { now + Int64($0) * 1_000_000 }
        let links = try LinkSocket.open(for: places)
        // Closed outside the lock: that waits for a grace period of RCU.
        let replaced = state.withLock { state in
            places.compactMap { address, interface -> Pending? in
                guard let link = links[LinkSocket.Key(address, on: interface)] else { return nil }
                return state.pending.updateValue(
                    Pending(address: address, link: link, moments: moments), forKey: address.bytes)
            }
        }
        withExtendedLifetime(replaced) {}
        changed.signal()
    }

    func remove(_ addresses: [VirtualAddress]) {
        // Closed outside the lock, as in `add`.
        let gone = state.withLock { state in
            addresses.compactMap { state.pending.removeValue(forKey: $0.bytes) }
        }
        withExtendedLifetime(gone) {}
    }

    func run(stop: Int32) {
        while true {
            let next = state.withLock { $0.pending.values.compactMap(\.moments.last).min() }
            let wait = next.map { Int32(clamping: max(0, ($0 - Clock.monotonic + 999_999) / 1_000_000)) } ?? -1
            var entries = [stop, changed.raw].map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
            _ = poll(&entries, 2, wait)
            if entries[0].revents != 0 { return }
            if entries[1].revents != 0 { changed.clear() }
            speak()
        }
    }

    /// Sends what is due.
    private func speak() {
        // Closed outside the lock, as in `add`.
        var done: [Pending] = []
        var pace = FramePace()
        for key in state.withLock({ Array($0.pending.keys) }) {
            // One at a time: who cancels need not wait for all.
            let hasSpoken = state.withLock { state in
                guard let entry = state.pending[key], let due = entry.moments.last, due <= Clock.monotonic else {
                    return false
                }
                do throws(AddressingError) { try entry.link.announce(entry.address) } catch { state.failure = error }
                state.pending[key]?.moments.removeLast()
                if entry.moments.count == 1, let last = state.pending.removeValue(forKey: key) { done.append(last) }
                return true
            }
            if hasSpoken { pace.step() }
        }
        withExtendedLifetime(done) {}
    }
}
