import CKernel
import Glibc
import Synchronization

/// The one seam that every system call of the project passes.
///
/// A test installs a plan and the n-th call of a name fails with a chosen error number without reaching
/// the kernel; without a plan the cost is one relaxed atomic load.
public enum FaultSeam {
    /// Fail the `occurrence`-th (from 1) call named `call` with `code`.
    public struct Plan: Sendable {
        public var call: String
        public var occurrence: Int
        public var code: Errno
        public init(call: String, occurrence: Int = 1, code: Errno) {
            self.call = call
            self.occurrence = occurrence
            self.code = code
        }
    }

    private static let armed = Atomic<Bool>(false)
    private static let plan = Mutex<Plan?>(nil)

    public static func arm(_ newPlan: Plan?) {
        plan.withLock { $0 = newPlan }
        armed.store(newPlan != nil, ordering: .releasing)
    }

    static func forcedError(_ call: StaticString) -> Errno? {
        guard armed.load(ordering: .acquiring) else { return nil }
        return plan.withLock { plan in
            guard var current = plan, current.call == "\(call)" else { return nil }
            current.occurrence -= 1
            plan = current
            return current.occurrence == 0 ? current.code : nil
        }
    }
}

/// Performs `body`, turning a result of -1 into a `KernelError` that names `call` and `object`.
///
/// EINTR is retried: the daemon's own signals are taken by signalfd, so an interrupted call has nobody to tell.
@discardableResult
public func systemCall<Result: SignedInteger>(
    _ call: StaticString, on object: @autoclosure () -> String = "", _ body: () -> Result
) throws(KernelError) -> Result {
    if let code = FaultSeam.forcedError(call) {
        throw KernelError(call: "\(call)", object: object(), code: code)
    }
    while true {
        let result = body()
        if result != -1 { return result }
        let code = Errno(rawValue: ck_errno())
        if code == .interrupted { continue }
        throw KernelError(call: "\(call)", object: object(), code: code)
    }
}
