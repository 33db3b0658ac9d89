import Addressing
import Glibc
import Kernel
import Units

/// Here an address is the one the kernel is given; the annotation's own type stays in `Units`.
public typealias VirtualAddress = Addressing.VirtualAddress

/// A drop-in in /run that is there for one move only.
struct RuntimeDropIn: Sendable {
    let path: String

    init(_ unit: String, _ role: MoveDropIns.Role) { path = MoveDropIns.path(unit, role) }

    private var directory: String { path.split(separator: "/").dropLast().reduce("") { $0 + "/" + $1 } }

    func write(_ text: String) throws(KernelError) {
        try Files.makeDirectories(directory)
        try Files.writeAtomically(path, text)
    }

    /// Removes it, and its directory when nothing else is in there; not being there is no error.
    func remove() throws(KernelError) {
        do throws(KernelError) { try Files.remove(path) } catch  where error.code == .noEntry {}
        rmdir(directory)
    }
}

extension SystemdClient {
    /// Sends the signal of a stop that came while the departing drop-in kept it from the processes.
    func deliverStop(_ unit: String) throws(SystemdError) {
        let status = try unitProperties(unit)
        guard status.activeState == "deactivating" else { return }
        try killUnit(unit, signal: status.killSignal)
    }

    /// Waits until the unit is in one of `states` (ActiveState=).
    func awaitState(_ unit: String, _ states: Set<String>, milliseconds: Int64) throws(MoveError) {
        let deadline = Deadline.after(milliseconds: milliseconds)
        while true {
            let status: UnitStatus
            do throws(SystemdError) { status = try unitProperties(unit) } catch { throw MoveError(.step, "\(error)") }
            if states.contains(status.activeState) { return }
            if deadline.hasPassed {
                throw MoveError(
                    .step, "\(unit) is still \(status.activeState) (\(status.subState)) after \(milliseconds) ms")
            }
            do throws(KernelError) { try Poll.pause(milliseconds: 5) } catch { throw MoveError(.step, "\(error)") }
        }
    }
}
