import Kernel

/// Something of the service that cannot be carried: found before anything is touched, and named exactly.
public struct Refusal: Codable, Hashable, Sendable, CustomStringConvertible {
    /// Process, 0 when the whole unit is meant.
    public var pid: Int32
    /// What, within the process: `fd 4`, `thread 18`, `mapping 7f00…-7f01…`.
    public var subject: String
    /// The thing itself: a path, an address, a kind.
    public var object: String
    public var why: String
    /// What the administrator can do about it.
    public var remedy: String

    public init(pid: Int32, subject: String, object: String, why: String, remedy: String) {
        self.pid = pid
        self.subject = subject
        self.object = object
        self.why = why
        self.remedy = remedy
    }

    public var description: String {
        "\(pid == 0 ? "" : "process \(pid) ")\(subject)\(object.isEmpty ? "" : " (\(object))"): \(why); \(remedy)"
    }
}

/// A capture or restore step that failed: on which resource, doing what, and the kernel's answer if it was asked.
public struct ResourceError: Error, Sendable, CustomStringConvertible {
    /// For example `pid 17 fd 4 (tcp 10.10.10.11:80 ↔ 10.10.10.100:40000)`.
    public var subject: String
    public var problem: String
    public var cause: KernelError?

    public init(_ subject: String, _ problem: String, cause: KernelError? = nil) {
        self.subject = subject
        self.problem = problem
        self.cause = cause
    }

    public var description: String {
        "\(subject): \(problem)\(cause.map { ": \($0)" } ?? "")"
    }
}
