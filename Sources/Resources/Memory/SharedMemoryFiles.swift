/// The files of POSIX shared memory and named semaphores, shm_overview(7) and sem_overview(7).
///
/// They are memory of the host that made them, though they have names: a move takes them along and leaves none behind.
public enum SharedMemoryFiles {
    public static let directory = "/dev/shm"

    /// Whether a path, as maps and descriptor links show it, is one of them; also when the name is gone.
    public static func contains(_ path: String) -> Bool {
        path.hasPrefix(directory + "/") && !path.split(separator: "/").contains("..")
    }
}
