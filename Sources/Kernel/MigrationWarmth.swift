import Synchronization

/// Keeps moving processes between cgroups cheap for a while.
///
/// A write to cgroup.procs takes `cgroup_threadgroup_rwsem`, whose first writer waits for an RCU grace period, 8 to
/// 20 ms, while writers that follow within one pass at once (kernel/rcu/sync.c). So a thread writes the number of a
/// process to the group that it is in already, which changes nothing, until the real moves have been made.
public final class MigrationWarmth: Sendable {
    private let stopping: EventCounter

    /// Starts writing `pid` to `cgroup`, its own group.
    public init(_ pid: Int32, in cgroup: Cgroup) throws(KernelError) {
        let stopping = try EventCounter()
        self.stopping = stopping
        try BlockingThread.start("cgroup-warmth") {
            repeat {
                do throws(KernelError) { try cgroup.take(pid: pid) } catch { return }
            } while !stopping.wait(milliseconds: 1)
        }
    }

    /// Ends it; repeatable.
    public func stop() { stopping.signal() }

    deinit { stop() }
}
