import Addressing
import Capture
import Kernel
import Peering
import Resources
import Units

/// The destination's part of the check: would this service find here what it needs? Nothing is changed.
final class ArrivalCheck {
    private let offer: Offer
    /// What the source said of itself.
    private let remote: Hello
    private let host: Host
    private let systemd: SystemdClient
    /// The unit as it is here; set when it exists and is annotated.
    private(set) var view: UnitView?
    private var lines: [CheckLine] = []

    init(offer: Offer, remote: Hello, host: Host, systemd: SystemdClient) {
        self.remote = remote
        self.offer = offer
        self.host = host
        self.systemd = systemd
    }

    func run() -> [CheckLine] {
        checkClocks()
        checkUnit()
        checkAddresses()
        checkPids()
        checkFiles()
        checkDirectories()
        checkSharedMemory()
        checkKernel()
        checkPorts()
        return lines
    }

    private func pass(_ check: String, _ subject: String, _ why: String) {
        lines.append(CheckLine(check, subject, passed: true, why: why))
    }

    private func fail(_ check: String, _ subject: String, _ why: String) {
        lines.append(CheckLine(check, subject, passed: false, why: why))
    }

    private func checkUnit() {
        do throws(MoveError) {
            let view = try UnitView.load(offer.unit, systemd: systemd)
            self.view = view
            if case .inDoubt(_, let node) = host.ownership.state(of: offer.unit) {
                return fail("unit", offer.unit, "its last move from node \(host.name) to node \(node) is in doubt")
            }
            if Files.exists(MoveDropIns.path(offer.unit, .departing)) {
                return fail(
                    "unit", offer.unit, "its last move from node \(host.name) is not over; try again in a few seconds")
            }
            guard view.status.activeState == "inactive" || view.status.activeState == "failed" else {
                return fail(
                    "unit", offer.unit, "is \(view.status.activeState) on node \(host.name); stop it there first")
            }
            let theirs = Set(offer.virtualAddresses)
            let ours = Set(view.addresses.map(\.description))
            guard theirs == ours else {
                return fail(
                    "unit", offer.unit,
                    "is annotated with \(ours.sorted()) on node \(host.name), with \(theirs.sorted()) at the source; "
                        + "install the same unit files on both")
            }
            guard view.status.type == offer.type, view.status.pidFile == offer.pidFile else {
                return fail(
                    "unit", offer.unit,
                    "has Type=\(view.status.type) PIDFile=\(view.status.pidFile) here, Type=\(offer.type) "
                        + "PIDFile=\(offer.pidFile) at the source; install the same unit files on both")
            }
            pass("unit", offer.unit, "is there and the same")
        } catch {
            fail("unit", offer.unit, "\(error) on node \(host.name)")
        }
    }

    private func checkAddresses() {
        guard let view else { return }
        let present: AddressTable
        do throws(AddressingError) { present = try host.addresses.list() } catch {
            return fail("address", offer.unit, "\(error)")
        }
        for address in view.addresses {
            do throws(AddressingError) {
                let interface = try present.interface(for: address, named: view.annotation.interface)
                if present.contains(address, on: interface) {
                    fail("address", address.description, "is on \(interface.name) of node \(host.name) already")
                } else {
                    pass("address", address.description, "has its place on \(interface.name)")
                }
            } catch {
                fail("address", address.description, "\(error)")
            }
        }
    }

    /// Every pid, thread id, process group and session of the service must be free here.
    private func checkPids() {
        let wanted = Set(offer.sketch.processes.flatMap { $0.threads + [$0.pid, $0.group, $0.session] })
        var taken = 0
        for number in wanted.sorted() where number > 0 {
            guard let occupant = PidOccupant.find(number) else { continue }
            taken += 1
            fail(
                "pid", String(number),
                "is taken on node \(host.name) by \(occupant); end that process or restart it, and keep the hosts' "
                    + "pids apart with mobility-pids.service (PidRangeStart=)")
        }
        if taken == 0 { pass("pid", offer.unit, "all \(wanted.count) process numbers are free") }
    }

    private func checkFiles() {
        var different = 0
        for identity in offer.sketch.files where !(view?.travels(identity.path) ?? false) {
            do throws(KernelError) {
                let here = try host.digests.identity(
                    path: identity.path, opened: identity.path, digesting: !identity.digest.isEmpty)
                if here.digest == identity.digest { continue }
                different += 1
                fail(
                    "file", identity.path,
                    "has other content on node \(host.name); install the same package version, use shared storage, or "
                        + "name it in CarryPaths=")
            } catch {
                // In a mount namespace of its own the unit may have it: looked at again once it has started.
                if error.code == .noEntry && view?.status.hasMountsOfItsOwn ?? false { continue }
                different += 1
                fail(
                    "file", identity.path,
                    "cannot be read on node \(host.name): \(error); install it there, use shared storage, or name it "
                        + "in CarryPaths=")
            }
        }
        if different == 0 { pass("file", offer.unit, "\(offer.sketch.files.count) files are the same") }
    }

    /// Shared memory takes its names along.
    private func checkSharedMemory() {
        for path in offer.sketch.sharedMemoryFiles where Files.exists(path) {
            fail(
                "memory", path,
                "is on node \(host.name) already; remove it there, unless a process that runs there uses it (`fuser "
                    + "\(path)`): then stop that")
        }
    }

    /// Working directories that only systemd makes, or sees, are looked at once the unit has started here.
    private func checkDirectories() {
        guard let status = view?.status, !status.hasMountsOfItsOwn else { return }
        let made = status.madeDirectories + (status.privateTmp ? ["/tmp", "/var/tmp"] : [])
        for process in offer.sketch.processes {
            for (path, what) in [(process.workingDirectory, "working"), (process.rootDirectory, "root")] {
                if made.contains(where: { path == $0 || path.hasPrefix($0 + "/") }) || Files.isDirectory(path) {
                    continue
                }
                fail(
                    "directory", path,
                    "the \(what) directory of process \(process.pid) is not there on node \(host.name); make it there")
            }
        }
    }

    /// A listener meets what listens on this host already, on its own address or on all.
    private func checkPorts() {
        guard let view, let taken = try? TCPTable.listeners() else { return }
        var clashes = 0
        for listener in offer.sketch.listeners where listener.type == 1 && listener.port != 0 {
            let address = listener.address.content
            let isVirtual = view.addresses.contains { $0.mapped == address }
            // The same wildcard or address; a listener on another address of this host is no obstacle.
            let short = address.dropLast(4).allSatisfy { $0 == 0 || $0 == 0xff } ? Array(address.suffix(4)) : address
            let isWildcard = short.allSatisfy { $0 == 0 }
            guard
                taken.contains(where: {
                    $0.port == listener.port && ($0.address == short || isWildcard || $0.isWildcard)
                })
            else { continue }
            clashes += 1
            fail(
                "port", "tcp \(listener.port)",
                "is in use on node \(host.name); "
                    + (isVirtual
                        ? "stop what listens there on every address, or on this one: a socket unit, for example"
                        : "stop what listens there, or let the service listen on its virtual address only"))
        }
        if clashes == 0 { pass("port", offer.unit, "all listening ports are free") }
    }

    /// How far the two hosts' time of day may be apart, ms: what was frozen ages by it.
    static let clockTolerance: Int64 = 1000

    private func checkClocks() {
        // The source read its clock right before it sent the offer.
        let difference = abs(offer.sketch.clocks.realtime - Clock.realtime) / 1_000_000
        if difference <= Self.clockTolerance {
            pass(
                "clock", host.name,
                "the hosts' time of day is at most \(difference) ms apart; ticks there \(remote.hertz) Hz")
        } else {
            fail(
                "clock", host.name,
                "the hosts' time of day is \(difference) ms apart, at most \(Self.clockTolerance) is allowed; "
                    + "synchronise both, for example with systemd-timesyncd")
        }
    }

    private func checkKernel() {
        do throws(KernelError) {
            if offer.sketch.vdsoDigest == (try HostVdso.digest()) {
                pass("vdso", offer.unit, "is the same")
            } else {
                fail("vdso", offer.unit, "the kernels' vdso differ; boot both nodes with the same kernel")
            }
        } catch {
            fail("vdso", offer.unit, "\(error)")
        }
    }
}
