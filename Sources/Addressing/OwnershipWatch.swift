import CKernel
import Glibc
import Kernel
import Synchronization

/// Defends an address while this host owns it, from a thread of its own in the maker's network namespace.
///
/// An address that a network manager removes is added again; it is announced again then, when the carrier returns and
/// when another host claims it (at most every ten seconds, RFC 5227 section 2.4 (b), lest two hosts fight). End the
/// watch before the address is given up.
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

    /// DEFEND_INTERVAL of RFC 5227, in nanoseconds.
    private static let defendInterval: Int64 = 10_000_000_000

    private let thread: StoppableThread
    private let watcher: Watcher

    /// `report` is called on the watch's thread.
    public init(
        _ address: VirtualAddress, on interface: NetworkInterface, report: @escaping @Sendable (Event) -> Void
    ) throws(AddressingError) {
        let watcher = try Watcher(address, interface, report)
        self.watcher = watcher
        thread = try StoppableThread("ownership watch") { watcher.run(stop: $0) }
    }

    /// Makes the watch do nothing, or all it does, from now on: when this returns, nothing is added or sent any more.
    /// Unlike `cancel` it takes no time worth naming.
    public func setSuspended(_ value: Bool) { watcher.isSuspended.withLock { $0 = value } }

    /// Ends the watch: when this returns, nothing more is added or sent. Repeatable.
    public func cancel() { thread.cancel() }

    private final class Watcher: Sendable {
        let address: VirtualAddress
        let interface: NetworkInterface
        let hardware: [UInt8]
        let monitor: RouteMonitor
        let claims: PacketSocket
        let report: @Sendable (Event) -> Void
        /// Held while something is done about the address.
        let isSuspended = Mutex(false)

        init(
            _ address: VirtualAddress, _ interface: NetworkInterface, _ report: @escaping @Sendable (Event) -> Void
        ) throws(AddressingError) {
            self.address = address
            self.interface = interface
            self.report = report
            do throws(KernelError) {
                hardware = try interface.hardwareAddress()
                monitor = try RouteMonitor(removalOf: address.bytes)
                claims = try PacketSocket(interface: interface, etherType: OwnershipFrames.etherType(address))
                try claims.attach(OwnershipFrames.claimFilter(address))
            } catch {
                throw .kernel(error)
            }
        }

        func run(stop: Int32) {
            var carrier = true
            var lastDefence = Int64.min / 2
            while true {
                var entries = [stop, monitor.descriptor.raw, claims.descriptor.raw].map {
                    pollfd(fd: $0, events: Int16(POLLIN), revents: 0)
                }
                if poll(&entries, 3, -1) < 0 && ck_errno() != EINTR {
                    return report(.ended(why: Errno(rawValue: ck_errno()).description))
                }
                if entries[0].revents != 0 { return }
                do throws(KernelError) {
                    if entries[1].revents != 0 {
                        for event in try monitor.events() { unlessSuspended { handle(event, &carrier) } }
                    }
                    while entries[2].revents != 0, let frame = try claims.receive(milliseconds: 0) {
                        unlessSuspended { defend(frame, &lastDefence) }
                    }
                } catch  where error.code.rawValue == ENETDOWN {
                    // packet(7) says so once when the interface is set down; it goes on when that is up again.
                } catch {
                    return report(.ended(why: error.description))
                }
            }
        }

        private func unlessSuspended(_ body: () -> Void) {
            isSuspended.withLock { if !$0 { body() } }
        }

        private func handle(_ event: RouteMonitor.Event, _ carrier: inout Bool) {
            switch event {
            case .linkChanged(interface.index, let now):
                if now && !carrier {
                    restore()  // An interface that is set down loses its IPv6 addresses.
                    announce()
                    report(.carrierReturned)
                }
                carrier = now
            case .addressRemoved(interface.index, let bytes, _) where bytes == address.bytes: restore()
            case .overrun: restore()
            case .linkChanged, .addressRemoved: break
            }
        }

        private func restore() {
            do throws(AddressingError) {
                let manager = AddressManager()
                if try manager.isPresent(address, on: interface) { return }
                try manager.add(address, to: interface)
                announce()
                report(.restored(failure: nil))
            } catch {
                report(.restored(failure: error.description))
            }
        }

        private func defend(_ frame: [UInt8], _ last: inout Int64) {
            guard let other = OwnershipFrames.claimant(address, in: frame, besides: hardware) else { return }
            let due = Clock.monotonic - last >= OwnershipWatch.defendInterval
            if due {
                announce()
                last = Clock.monotonic
            }
            report(.foreignClaim(hardware: hardwareText(other), defended: due))
        }

        /// A failure to send is no news here: the carrier's return announces again.
        private func announce() { _ = try? Announcement.once(address, on: interface) }
    }
}
