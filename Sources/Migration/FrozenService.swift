import Capture
import Kernel

/// The service's processes in a child cgroup of the unit's, which only we freeze and thaw: systemd's own thaw on
/// stop or reload writes the unit's cgroup and does not reach it.
final class FrozenService {
    let cgroup: String
    let moving: String
    /// Set while state of the service is in our hands (sockets in repair mode).
    var capture: ServiceCapture?

    init(cgroup: String) {
        self.cgroup = cgroup
        moving = cgroup + "/moving"
    }

    /// Moves every process into the child, whatever forks meanwhile.
    func gather() throws(KernelError) { try Cgroup.moveAll(from: cgroup, to: moving) }

    func freeze() throws(KernelError) { try Cgroup.freeze(moving, milliseconds: 5000) }

    /// The service runs on here as if nothing had been.
    func rollBack() throws {
        capture?.undo()
        capture = nil
        try Cgroup.thaw(moving)
        try Cgroup.moveAll(from: moving, to: cgroup)
        try Cgroup.remove(moving)
    }

    /// The service runs elsewhere: its processes end here without a packet, whatever they held.
    func end() throws {
        // The kill comes before the thaw, so that nothing of the service runs in between.
        try Cgroup.kill(moving)
        try Cgroup.thaw(moving)
        try Cgroup.awaitEmpty(moving, milliseconds: 5000)
        capture?.release()
        capture = nil
        try? Cgroup.remove(moving)
    }
}
