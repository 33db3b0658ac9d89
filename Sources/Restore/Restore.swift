import Kernel
import Resources

/// Why a service could not be built or restored here.
public enum RestoreError: Error, Sendable, CustomStringConvertible {
    /// A process or thread number the service needs belongs to another process (also a zombie or a session id).
    case numberTaken(pid: Int32)
    /// An embryo ended: killed from outside or by a fault of its own.
    case embryoDied(pid: Int32, doing: String)
    /// The shape of the process tree cannot be made with clone, setsid and setpgid.
    case tree(pid: Int32, why: String)
    /// The arriving unit's sandbox has a namespace that a service cannot be moved into.
    case namespace(kind: String, holder: Int32, why: String)
    case kernel(pid: Int32, step: String, KernelError)
    case resource(ResourceError)
    /// The image lacks or contradicts something.
    case image(String)

    public var description: String {
        switch self {
        case .numberTaken(let pid):
            return "process number \(pid) is in use on this host; retry when it is free, or give the hosts "
                + "separate stripes of numbers (mobility-pids.service)"
        case .embryoDied(let pid, let doing): return "process \(pid) died while it was being made (\(doing))"
        case .tree(let pid, let why): return "process \(pid) cannot be made: \(why)"
        case .namespace(let kind, let holder, let why): return "\(kind) namespace of process \(holder): \(why)"
        case .kernel(let pid, let step, let error): return "process \(pid), \(step): \(error)"
        case .resource(let error): return error.description
        case .image(let why): return "image: \(why)"
        }
    }
}

/// Runs `body`, naming process and step in what it throws.
@discardableResult
func step<Value>(
    _ pid: Int32, _ name: @autoclosure () -> String, _ body: () throws(KernelError) -> Value
) throws(RestoreError) -> Value {
    do throws(KernelError) { return try body() } catch {
        if error.call == "embryo" { throw RestoreError.embryoDied(pid: pid, doing: "\(name()): \(error.object)") }
        throw RestoreError.kernel(pid: pid, step: name(), error)
    }
}

/// Runs a resource's step.
func resource<Value>(_ body: () throws(ResourceError) -> Value) throws(RestoreError) -> Value {
    do throws(ResourceError) { return try body() } catch { throw RestoreError.resource(error) }
}
