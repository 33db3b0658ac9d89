import Addressing
import Capture
import Kernel
import Resources
import Units

/// The destination's part of the check: would this service find here what it needs? Nothing is changed.
final class ArrivalCheck {
    private let offer: Offer
    private let host: Host
    private let systemd: SystemdClient
    /// The unit as it is here; set when it exists and is annotated.
    private(set) var view: UnitView?
    private var lines: [CheckLine] = []

    init(offer: Offer, host: Host, systemd: SystemdClient) {
        self.offer = offer
        self.host = host
        self.systemd = systemd
    }

    func run() -> [CheckLine] {
        checkUnit()
        checkAddresses()
        checkPids()
        checkFiles()
        checkKernel()
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
            guard view.status.activeState == "inactive" || view.status.activeState == "failed" else {
                return fail("unit", offer.unit, "is \(view.status.activeState) on node \(host.name); stop it there first")
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
        for address in view.addresses {
            do throws(AddressingError) {
                let interface = try host.addresses.interface(for: address, named: view.annotation.interface)
                if try host.addresses.isPresent(address, on: interface) {
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
        for identity in offer.sketch.files where !identity.digest.isEmpty {
            do throws(KernelError) {
                let here = try host.digests.identity(path: identity.path, opened: identity.path)
                if here.digest == identity.digest { continue }
                different += 1
                fail(
                    "file", identity.path,
                    "has other content on node \(host.name); install the same package version, use shared storage, or "
                        + "name it in CarryPaths=")
            } catch {
                different += 1
                fail("file", identity.path, "cannot be read on node \(host.name): \(error); install it there")
            }
        }
        if different == 0 { pass("file", offer.unit, "\(offer.sketch.files.count) files are the same") }
    }

    private func checkKernel() {
        do throws(KernelError) {
            if offer.sketch.vdsoDigest.content == (try VDSO.digest()) {
                pass("vdso", offer.unit, "is the same")
            } else {
                fail("vdso", offer.unit, "the kernels' vdso differ; boot both nodes with the same kernel")
            }
        } catch {
            fail("vdso", offer.unit, "\(error)")
        }
    }
}
