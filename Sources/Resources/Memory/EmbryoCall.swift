import Kernel

/// One system call of a batch that an embryo performs without coming back in between.
public struct EmbryoCall: Sendable {
    /// `SYS_…`
    public var number: Int32
    public var arguments: [EmbryoArgument]
    /// What it is done to, for the error.
    public var object: String
    /// A failure ends the batch and is thrown; else the negative error number is the result.
    public var mustSucceed: Bool
    /// The argument at this position becomes the result of the call `distance` calls earlier in the batch.
    public var takes: (argument: Int, distance: Int)?

    public init(
        _ number: Int32, _ arguments: [EmbryoArgument], on object: String, mustSucceed: Bool = true,
        takes: (argument: Int, distance: Int)? = nil
    ) {
        self.number = number
        self.arguments = arguments
        self.object = object
        self.mustSucceed = mustSucceed
        self.takes = takes
    }
}

/// An embryo that performs whole batches in one round trip.
public protocol EmbryoBatchPort: EmbryoPort {
    /// Performs the calls, or only collects them while the port is gathering; calls that belong together by `takes`
    /// stay together.
    func enqueue(_ calls: [EmbryoCall]) throws(KernelError)
    /// Performs the calls now.
    func run(_ calls: [EmbryoCall]) throws(KernelError) -> [EmbryoResult]
}

extension EmbryoPort {
    /// Performs `calls` in order, in one batch where the port can.
    public func perform(_ calls: [EmbryoCall]) throws(KernelError) {
        if let batch = self as? any EmbryoBatchPort { return try batch.enqueue(calls) }
        _ = try values(of: calls)
    }

    /// Performs `calls` now, in order; of a call that failed and was allowed to, the negative error number.
    public func values(of calls: [EmbryoCall]) throws(KernelError) -> [Int] {
        if let batch = self as? any EmbryoBatchPort { return try batch.run(calls).map(\.value) }
        var values: [Int] = []
        for item in calls {
            var arguments = item.arguments
            if let takes = item.takes { arguments[takes.argument] = .int(values[values.count - takes.distance]) }
            while arguments.count < 6 { arguments.append(.int(0)) }
            do throws(KernelError) {
                values.append(
                    try call(
                        item.number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5],
                        on: item.object
                    ).value)
            } catch {
                if item.mustSucceed { throw error }
                values.append(-Int(error.code.rawValue))
            }
        }
        return values
    }
}
