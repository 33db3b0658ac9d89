import Capture
import Kernel

/// The service's processes in a child cgroup of the unit's, which only we freeze and thaw: systemd's own thaw on
/// stop or reload writes the unit's cgroup and does not reach it.
final class FrozenService {
    let cgroup: Cgroup
    private(set) var moving: Cgroup
    /// Set while state of the service is in our hands (sockets in repair mode).
    var holds: CaptureHolds?
    /// Set once the accept queues were taken.
    var clients: WaitingClients?

    /// The child's name.
    static let childName = "moving"

    init(cgroup: Cgroup) {
        self.cgroup = cgroup
        moving = Cgroup(path: cgroup.path + "/" + Self.childName)
    }

    /// Moves every process into the child, whatever forks meanwhile.
    func gather() throws(KernelError) {
        try cgroup.makeChild(Self.childName)
        try cgroup.moveOwnProcesses(to: moving)
    }

    func freeze() throws(KernelError) { try moving.freeze() }

    /// The service runs on here as if nothing had been.
    func rollBack() throws {
        holds?.rollBack()
        holds = nil
        var problem: (any Error)?
        do { try clients?.putBack() } catch { problem = error }
        clients = nil
        // A call that ends with EINTR is better than a service that stays frozen.
        try? InterruptedCalls.restart(in: moving)
        try moving.thaw()
        try moving.moveProcesses(to: cgroup)
        try moving.remove()
        if let problem { throw problem }
    }

    /// The service runs elsewhere: its processes end here without a packet, whatever they held.
    func end() throws {
        // The kill comes before the thaw, so that nothing of the service runs in between.
        try moving.kill()
        // Not `thaw`, which awaits the event: the group may be gone before it comes.
        do throws(KernelError) { try moving.requestThaw() } catch  where error.code == .noEntry {}
        try moving.awaitEmpty()
        holds?.release()
        holds = nil
        clients?.end()
        clients = nil
        try? moving.remove()
    }
}

extension Cgroup {
    /// Moves the group's own processes, not those of its children, until none is left.
    func moveOwnProcesses(to other: Cgroup) throws(KernelError) {
        while true {
            let pids = try ownProcesses()
            if pids.isEmpty { return }
            for pid in pids {
                do throws(KernelError) { try other.take(pid: pid) } catch  where error.code == .noProcess {}
            }
        }
    }
}
