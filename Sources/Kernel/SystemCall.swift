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
        /// `any` counts every call.
        public var call: String
        public var occurrence: Int
        public var code: Errno
        public init(call: String, occurrence: Int = 1, code: Errno) {
            self.call = call
            self.occurrence = occurrence
            self.code = code
        }
    }

    /// The environment variable that arms the seam of a whole daemon, see `armFromEnvironment`.
    public static let variable = "MOBILITYD_FAULT"

    private static let armed = Atomic<Bool>(false)
    private static let plan = Mutex<Plan?>(nil)
    private static let wasArmedFromEnvironment = Atomic<Bool>(false)

    public static func arm(_ newPlan: Plan?) {
        plan.withLock { $0 = newPlan }
        armed.store(newPlan != nil, ordering: .releasing)
    }

    /// Arms the plan of `$MOBILITYD_FAULT`, once in the life of the process: the daemon calls this where it begins
    /// to change something for a move, so occurrences count from there and a second move runs undisturbed.
    ///
    /// A seam for tests, not an option of the product: see docs/testing.md. Returns the plan armed now, if any.
    @discardableResult
    public static func armFromEnvironment() -> Plan? {
        guard let value = getenv(variable), let plan = Plan(String(cString: value)),
            !wasArmedFromEnvironment.exchange(true, ordering: .acquiringAndReleasing)
        else { return nil }
        arm(plan)
        return plan
    }

    static func forcedError(_ call: StaticString) -> Errno? {
        guard armed.load(ordering: .acquiring) else { return nil }
        return forcedError(named: "\(call)")
    }

    /// The same for a call that another process performs for this one, such as `embryo mmap`.
    public static func forcedError(named call: String) -> Errno? {
        guard armed.load(ordering: .acquiring) else { return nil }
        return plan.withLock { plan in
            guard var current = plan, current.call == call || current.call == "any" else { return nil }
            current.occurrence -= 1
            plan = current
            return current.occurrence == 0 ? current.code : nil
        }
    }
}

extension FaultSeam.Plan {
    /// Reads `CALL:OCCURRENCE:ERRNO`, for example `clone3:2:ENOMEM`; nil when it is anything else.
    public init?(_ text: String) {
        let fields = text.split(separator: ":", omittingEmptySubsequences: false).map(String.init)
        guard fields.count == 3, !fields[0].isEmpty, let occurrence = Int(fields[1]), occurrence > 0,
            let number = (1..<Int32(134)).first(where: { ck_error_name($0).map { String(cString: $0) } == fields[2] })
        else { return nil }
        self.init(call: fields[0], occurrence: occurrence, code: Errno(rawValue: number))
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
