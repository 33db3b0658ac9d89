import CKernel
import Glibc
import Kernel
import Synchronization

/// Defends addresses while this host owns them, from one thread in the maker's network namespace, however many.
///
/// An address that a network manager removes is added again; it is announced again then, when the carrier returns and
/// when another host claims it (at most every ten seconds, RFC 5227 section 2.4 (b), lest two hosts fight). End the
/// watch over an address before that is given up.
///
/// A packet socket an address would cost each packet of the interface a look of each of them: there is one an
/// interface and family.
public final class OwnershipWatch: Sendable {
    public enum Event: Sendable, Equatable {
        /// Somebody removed the address; it is back, unless `failure` says why not.
        case restored(failure: String?)
        /// The link works again and was told.
        case carrierReturned
        /// Another host said that it owns the address: an alarm, for two owners break every connection.
        case foreignClaim(hardware: String, defended: Bool)
        /// The watch itself ended, and why.
        case ended(why: String)
    }
    public typealias Report = @Sendable (VirtualAddress, Event) -> Void

    /// DEFEND_INTERVAL of RFC 5227, in nanoseconds.
    fileprivate static let defendInterval: Int64 = 10_000_000_000

    /// From a claim to the answer, in milliseconds.
    fileprivate static let patience: Int32 = 20

    private let watcher: Watcher
    private let thread: StoppableThread

    /// `report` is called on the watch's thread, also for an address whose watch has just been ended.
    public init(report: @escaping Report) throws(AddressingError) {
        let watcher = try Watcher(report)
        self.watcher = watcher
        thread = try StoppableThread("ownership watch") { watcher.run(stop: $0) }
    }

    /// False once it has reported its end.
    public var isAlive: Bool { watcher.state.withLock { !$0.hasEnded } }

    /// Watches over the addresses from now on; all, or when it throws none.
    public func begin(_ places: [(VirtualAddress, NetworkInterface)]) throws(AddressingError) {
        try watcher.begin(places)
    }

    /// Makes the watches do nothing, or all they do, from now on: when this returns, nothing is added or sent any more.
    public func setSuspended(_ value: Bool, _ addresses: [VirtualAddress]) {
        watcher.state.withLock { state in
            for address in addresses { state.entries[address.bytes]?.isSuspended = value }
        }
    }

    /// Ends the watches over these: when this returns, nothing more is added or sent for them. Repeatable.
    public func end(_ addresses: [VirtualAddress]) { watcher.end(addresses) }

    /// Ends them all, and the thread. Repeatable.
    public func cancel() { thread.cancel() }
}

/// What the thread of an `OwnershipWatch` does.
private final class Watcher: Sendable {
    struct Entry {
        let address: VirtualAddress
        let interface: NetworkInterface
        var isSuspended = false
        var lastDefence = Int64.min / 2
    }

    struct State {
        var entries: [[UInt8]: Entry] = [:]
        var links: [LinkSocket.Key: LinkSocket] = [:]
        /// Of the interfaces of which something was heard; the others have one.
        var carriers: [Int32: Bool] = [:]
        var hasEnded = false
    }

    typealias Reports = [(VirtualAddress, OwnershipWatch.Event)]

    /// Held while something is done about an address.
    let state = Mutex(State())
    let monitor: RouteMonitor
    /// By which the thread hears of other links to listen on.
    let changed: EventCounter
    let report: OwnershipWatch.Report

    init(_ report: @escaping OwnershipWatch.Report) throws(AddressingError) {
        self.report = report
        do throws(KernelError) {
            monitor = try RouteMonitor()
            changed = try EventCounter()
        } catch {
            throw .kernel(error)
        }
    }

    // MARK: - What is watched over

    func begin(_ places: [(VirtualAddress, NetworkInterface)]) throws(AddressingError) {
        try state.withLock { (state) throws(AddressingError) in
            let links = state.links.merging(try LinkSocket.open(for: places, besides: state.links)) { known, _ in known
            }
            for (key, mine) in Dictionary(grouping: places, by: { LinkSocket.Key($0.0, on: $0.1) }) {
                if let link = links[key] { try listen(link, to: state.watched(key) + mine.map(\.0)) }
            }
            state.links = links
            for (address, interface) in places {
                state.entries[address.bytes] = Entry(address: address, interface: interface)
            }
        }
        changed.signal()
    }

    func end(_ addresses: [VirtualAddress]) {
        // Closed outside the lock: that waits for a grace period of RCU.
        var unused: [LinkSocket] = []
        state.withLock { state in
            for address in addresses { state.entries.removeValue(forKey: address.bytes) }
            for (key, link) in state.links {
                let rest = state.watched(key)
                if rest.isEmpty {
                    state.links.removeValue(forKey: key)
                    unused.append(link)
                } else {
                    // Without it the thread is woken in vain.
                    try? listen(link, to: rest)
                }
            }
        }
        if !unused.isEmpty { changed.signal() }
    }

    private func listen(_ link: LinkSocket, to addresses: [VirtualAddress]) throws(AddressingError) {
        try kernel { () throws(KernelError) in try link.socket.attach(OwnershipFrames.claimFilter(addresses)) }
    }

    // MARK: - The thread

    func run(stop: Int32) {
        while true {
            let links = state.withLock { Array($0.links.values) }
            let descriptors = [stop, changed.raw, monitor.descriptor.raw] + links.map { $0.socket.descriptor.raw }
            var entries = descriptors.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
            if poll(&entries, nfds_t(entries.count), -1) < 0 {
                if ck_errno() == EINTR { continue }
                return end(Errno(rawValue: ck_errno()).description)
            }
            if entries[0].revents != 0 { return }
            do throws(KernelError) {
                if entries[1].revents != 0 { changed.clear() }
                if entries[2].revents != 0 { handle(try pendingEvents()) }
                let speaking = zip(links, entries[3...]).filter { $0.1.revents != 0 }.map(\.0)
                // Who claims an address says so twice, as a request and as a reply. The last word is to be ours.
                if !speaking.isEmpty { _ = poll(nil, 0, OwnershipWatch.patience) }
                for link in speaking { try hear(link) }
            } catch {
                return end(error.description)
            }
        }
    }

    private func end(_ why: String) {
        let watched = state.withLock { state in
            state.hasEnded = true
            return state.entries.values.map(\.address)
        }
        for address in watched { report(address, .ended(why: why)) }
    }

    private func hear(_ link: LinkSocket) throws(KernelError) {
        do throws(KernelError) {
            while let frame = try link.socket.receive(milliseconds: 0) {
                guard let claim = OwnershipFrames.claim(in: frame, besides: link.hardware), !claim.isProbe else {
                    continue
                }
                tell { defend(claim, &$0) }
            }
        } catch  where error.code.rawValue == ENETDOWN {
            // packet(7) says so once when the interface is set down; it goes on when that is up again.
        }
    }

    /// All there are: what befell many addresses at once is set right at once.
    private func pendingEvents() throws(KernelError) -> [RouteMonitor.Event] {
        var events: [RouteMonitor.Event] = []
        while true {
            let more = try monitor.events()
            if more.isEmpty || events.count > Watcher.batch { return events + more }
            events += more
        }
    }

    private static let batch = 4096

    private func handle(_ events: [RouteMonitor.Event]) {
        tell { state in
            var returned: Set<Int32> = []
            var removed: Set<[UInt8]> = []
            var anything = false
            for event in events {
                switch event {
                case .linkChanged(let index, let now):
                    if now, state.carriers[index] == false { returned.insert(index) }
                    state.carriers[index] = now
                case .addressRemoved(_, let bytes, _): removed.insert(bytes)
                case .overrun: anything = true
                }
            }
            // An interface that is set down loses its IPv6 addresses.
            let reports = restore(&state) { entry in
                anything || removed.contains(entry.address.bytes) || returned.contains(entry.interface.index)
            }
            var pace = FramePace()
            return reports
                + state.active { returned.contains($0.interface.index) }.map { entry in
                    announce(entry, state)
                    pace.step()
                    return (entry.address, .carrierReturned)
                }
        }
    }

    /// What `body` does is done with the lock held, what it reports is reported without.
    private func tell(_ body: (inout State) -> Reports) {
        let reports = state.withLock { body(&$0) }
        for (address, event) in reports { report(address, event) }
    }

    private func restore(_ state: inout State, _ isConcerned: (Entry) -> Bool) -> Reports {
        let manager = AddressManager()
        let entries = state.active(isConcerned)
        if entries.isEmpty { return [] }
        var pace = FramePace()
        do throws(AddressingError) {
            let present = try manager.list()
            return entries.filter { !present.contains($0.address, on: $0.interface) }.map { entry in
                do throws(AddressingError) { try manager.add(entry.address, to: entry.interface) } catch {
                    return (entry.address, .restored(failure: error.description))
                }
                announce(entry, state)
                pace.step()
                return (entry.address, .restored(failure: nil))
            }
        } catch {
            return entries.map { ($0.address, .restored(failure: error.description)) }
        }
    }

    private func defend(_ claim: OwnershipFrames.Claim, _ state: inout State) -> Reports {
        guard let entry = state.entries[claim.address], !entry.isSuspended else { return [] }
        let due = Clock.monotonic - entry.lastDefence >= OwnershipWatch.defendInterval
        if due {
            announce(entry, state)
            state.entries[claim.address]?.lastDefence = Clock.monotonic
        }
        return [(entry.address, .foreignClaim(hardware: hardwareText(claim.hardware), defended: due))]
    }

    /// A failure to send is no news here: the carrier's return announces again.
    private func announce(_ entry: Entry, _ state: State) {
        try? state.links[LinkSocket.Key(entry.address, on: entry.interface)]?.announce(entry.address)
    }
}

extension Watcher.State {
    /// The addresses of one interface and family.
    fileprivate func watched(_ key: LinkSocket.Key) -> [VirtualAddress] {
        entries.values.filter { LinkSocket.Key($0.address, on: $0.interface) == key }.map(\.address)
    }

    fileprivate func active(_ isConcerned: (Watcher.Entry) -> Bool) -> [Watcher.Entry] {
        entries.values.filter { !$0.isSuspended && isConcerned($0) }
    }
}
