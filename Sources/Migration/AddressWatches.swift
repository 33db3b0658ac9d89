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

/// The watches over the addresses of the units that run here, one for each address.
///
/// A watch begins once the address is on its interface and this host speaks for it, and ends before it is given up: a
/// watch that outlived that would add the address again and answer the host that has it next.
public final class AddressWatches: Sendable {
    private struct Entry: Sendable {
        let unit: String
        let watch: OwnershipWatch
        var isSuspended = false
    }

    private let log: Logger
    private let table = Mutex<[VirtualAddress: Entry]>([:])
    private let observer = Mutex<(@Sendable (AddressConflict) -> Void)?>(nil)

    init(log: Logger) { self.log = log }

    /// Who is told of conflicts, on the watch's thread. Told of what is defended: once in ten seconds and address.
    public func setObserver(_ observer: @escaping @Sendable (AddressConflict) -> Void) {
        self.observer.withLock { $0 = observer }
    }

    /// Watches over the address from now on; an earlier watch over it ends. A watch that cannot be made is an error in
    /// the log only: the service runs without it.
    func begin(_ address: VirtualAddress, on interface: NetworkInterface, for unit: String) {
        let watch: OwnershipWatch
        do throws(AddressingError) {
            watch = try OwnershipWatch(address, on: interface) { [weak self] in self?.heard($0, address, unit) }
        } catch {
            return log.error("\(address) is not watched over: \(error)", metadata: ["unit": "\(unit)"])
        }
        // Ended outside the lock: it waits for the watch's thread.
        let earlier = table.withLock { $0.updateValue(Entry(unit: unit, watch: watch), forKey: address) }
        earlier?.watch.cancel()
    }

    /// Makes a unit's watches say nothing from now on, in no time: ending one waits for a grace period of RCU, as long
    /// as a tenth of a move. What one still sends is for the caller to keep from the wire.
    func suspend(_ unit: String) { setSuspended(true, unit) }

    /// The reverse.
    func resume(_ unit: String) { setSuspended(false, unit) }

    private func setSuspended(_ value: Bool, _ unit: String) {
        let mine = table.withLock { table in
            for (address, entry) in table where entry.unit == unit { table[address]?.isSuspended = value }
            return table.values.filter { $0.unit == unit }.map(\.watch)
        }
        mine.forEach { $0.setSuspended(value) }
    }

    /// Ends all watches of a unit: when this returns nothing more is added or sent for it. Repeatable.
    func end(_ unit: String) {
        let ended = table.withLock { table in
            let mine = table.filter { $0.value.unit == unit }
            mine.keys.forEach { table.removeValue(forKey: $0) }
            return mine.values.map(\.watch)
        }
        ended.forEach { $0.cancel() }
    }

    private func heard(_ event: OwnershipWatch.Event, _ address: VirtualAddress, _ unit: String) {
        // One that is not in the table any more is being ended.
        if table.withLock({ $0[address]?.isSuspended ?? true }) { return }
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
