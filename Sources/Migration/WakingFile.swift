import Glibc
import Kernel
import Restore

/// What is left to do for the connections of a unit that arrives, from its completion until it is settled.
struct WakingFile: Sendable {
    private static let directory = "/run/mobilityd"
    private let path: String

    init(_ unit: String) { path = Self.directory + "/waking-" + unit }

    func write(_ awakening: Awakening) throws {
        try Files.makeDirectories(Self.directory)
        let file = try FileDescriptor.open(path, O_WRONLY | O_CREAT | O_TRUNC, mode: 0o600)
        try file.writeAll(try awakening.encoded())
    }

    /// What went wrong, one line each.
    func perform() throws -> [String] {
        guard Files.exists(path) else { return [] }
        return try Awakening.decode(FileDescriptor.open(path, O_RDONLY).readToEnd()).perform()
    }

    func remove() { unlink(path) }
}
