import Glibc
import Kernel

/// Where unit files are read from: the disk, or texts that a test supplies.
public protocol UnitFileSource {
    /// The content of the file at an absolute path.
    func text(_ path: String) throws(KernelError) -> String
    /// The names in a directory, sorted; empty when there is none.
    func names(in directory: String) -> [String]
    /// What a symbolic link says; nil when `path` is none.
    func linkTarget(_ path: String) -> String?
}

/// The file system below `root`.
public struct DiskUnitFiles: UnitFileSource {
    /// Put before every path; empty for the running system.
    public let root: String

    public init(root: String = "") { self.root = root }

    public func text(_ path: String) throws(KernelError) -> String { try Files.readText(root + path) }

    public func names(in directory: String) -> [String] {
        // A directory of the search path that does not exist is the normal case.
        (try? Files.list(root + directory)) ?? []
    }

    public func linkTarget(_ path: String) -> String? { try? Files.readLink(root + path) }
}
