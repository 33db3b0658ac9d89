import CKernel
import Glibc

/// An error number of the kernel, `errno(3)`, with its symbolic name.
public struct Errno: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
    public let rawValue: Int32
    public init(rawValue: Int32) { self.rawValue = rawValue }

    public static let again = Errno(rawValue: EAGAIN)
    public static let badDescriptor = Errno(rawValue: EBADF)
    public static let busy = Errno(rawValue: EBUSY)
    public static let exists = Errno(rawValue: EEXIST)
    public static let fault = Errno(rawValue: EFAULT)
    public static let interrupted = Errno(rawValue: EINTR)
    public static let invalidArgument = Errno(rawValue: EINVAL)
    public static let noEntry = Errno(rawValue: ENOENT)
    public static let noMemory = Errno(rawValue: ENOMEM)
    public static let noSpace = Errno(rawValue: ENOSPC)
    public static let noProcess = Errno(rawValue: ESRCH)
    public static let notConnected = Errno(rawValue: ENOTCONN)
    public static let notPermitted = Errno(rawValue: EPERM)
    public static let timedOut = Errno(rawValue: ETIMEDOUT)

    /// The kernel's name and glibc's text, for example `ENOENT (No such file or directory)`.
    public var description: String {
        guard let name = ck_error_name(rawValue), let text = ck_error_text(rawValue) else {
            return "errno \(rawValue)"
        }
        return "\(String(cString: name)) (\(String(cString: text)))"
    }
}

/// A system call that failed: which call, on which object, and why.
public struct KernelError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The call's name as in section 2 of the manual, for example `openat`.
    public let call: String
    /// What it was done to: a path, `pid 17 fd 4`, an address; empty when there is nothing to name.
    public let object: String
    public let code: Errno

    public init(call: String, object: String, code: Errno) {
        self.call = call
        self.object = object
        self.code = code
    }

    public var description: String {
        object.isEmpty ? "\(call): \(code)" : "\(call) \(object): \(code)"
    }
}
