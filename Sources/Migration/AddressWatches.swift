import Addressing
import Kernel
import Logging
import Synchronization

/// Somebody else on the network says that it owns an address of a unit that runs here.
public struct AddressConflict: Equatable, Sendable {
    public let unit: String
    public let address: VirtualAddress
    /// The other's hardware address, `52:54:00:12:34:56`.
    public let hardware: String
}

/// The watches over the addresses of the units that run here.
///
/// A watch begins once the address is on its interface and this host speaks for it, and ends before it is given up: a
/// watch that outlived that would add the address again and answer the host that has it next.
public final class AddressWatches: Sendable {
    private struct Entry: Sendable {
        let unit: String
        var isSuspended = false
    }

    private let log: Logger
    private let watch = Mutex<OwnershipWatch?>(nil)
    private let table = Mutex<[VirtualAddress: Entry]>([:])
    private let observer = Mutex<(@Sendable (AddressConflict) -> Void)?>(nil)

    init(log: Logger) { self.log = log }

    /// Who is told of conflicts, on the watch's thread. Told of what is defended: once in ten seconds and address.
    public func setObserver(_ observer: @escaping @Sendable (AddressConflict) -> Void) {
        self.observer.withLock { $0 = observer }
    }

    /// Watches over the addresses from now on, for this unit alone. A watch that cannot be made is an error in the log
    /// only: the service runs without it.
    func begin(_ places: [(VirtualAddress, NetworkInterface)], for unit: String) {
        // First: what is heard of an address that is not in the table is passed over.
        table.withLock { table in
            for (address, _) in places { table[address] = Entry(unit: unit) }
        }
        do throws(AddressingError) { try current().begin(places) } catch {
            log.error("the addresses of \(unit) are not watched over: \(error)", metadata: ["unit": "\(unit)"])
        }
    }

    /// Made when it is first needed, and again after one that failed.
    private func current() throws(AddressingError) -> OwnershipWatch {
        try watch.withLock { (watch) throws(AddressingError) in
            if let watch, watch.isAlive { return watch }
            let made = try OwnershipWatch { [weak self] in self?.heard($1, $0) }
            watch = made
            return made
        }
    }

    /// Makes a unit's watches say nothing from now on, in no time: ending one waits for a grace period of RCU, as long
    /// as a tenth of a move. What one still sends is for the caller to keep from the wire.
    func suspend(_ unit: String) { setSuspended(true, unit) }

    /// The reverse.
    func resume(_ unit: String) { setSuspended(false, unit) }

    private func setSuspended(_ value: Bool, _ unit: String) {
        let mine = table.withLock { table in
            let mine = table.filter { $0.value.unit == unit }.map(\.key)
            for address in mine { table[address]?.isSuspended = value }
            return mine
        }
        watch.withLock { $0 }?.setSuspended(value, mine)
    }

    /// Ends all watches of a unit: when this returns nothing more is added or sent for it. Repeatable.
    func end(_ unit: String) {
        let ended = table.withLock { table in
            let mine = table.filter { $0.value.unit == unit }.map(\.key)
            mine.forEach { table.removeValue(forKey: $0) }
            return mine
        }
        if !ended.isEmpty { watch.withLock { $0 }?.end(ended) }
    }

    private func heard(_ event: OwnershipWatch.Event, _ address: VirtualAddress) {
        // One that is not in the table any more is being ended.
        guard let entry = table.withLock({ $0[address] }), !entry.isSuspended else { return }
        let unit = entry.unit
        var fields: Logger.Metadata = ["unit": "\(unit)", "address": "\(address.text)"]
        switch event {
        case .restored(nil):
            log.warning("somebody removed \(address) of \(unit); it is back", metadata: fields)
        case .restored(let failure?):
            log.error("somebody removed \(address) of \(unit), and it cannot be added: \(failure)", metadata: fields)
        case .carrierReturned:
            log.notice("the link of \(address) works again", metadata: fields)
        case .foreignClaim(let hardware, let defended):
            fields["hardware"] = "\(hardware)"
            // Every frame of the other host comes by here; the log and the bus hear of one in ten seconds.
            guard defended else {
                return log.debug("\(hardware) claims \(address) of \(unit)", metadata: fields)
            }
            log.error(
                "\(hardware) claims \(address), which \(unit) has here: two owners of an address break connections",
                metadata: fields)
            observer.withLock { $0 }?(AddressConflict(unit: unit, address: address, hardware: hardware))
        case .ended(let why):
            log.error("the watch over \(address) of \(unit) ended: \(why)", metadata: fields)
        }
    }
}
