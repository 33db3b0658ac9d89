import CKernel

/// How a process ended, as wait(2) tells it.
public enum ExitStatus: Equatable, Sendable, CustomStringConvertible {
    case exited(Int32)
    case killed(signal: Int32)

    init(waitStatus: Int32) {
        self =
            ck_wifexited(waitStatus) != 0
            ? .exited(ck_wexitstatus(waitStatus)) : .killed(signal: ck_wtermsig(waitStatus))
    }

    public var succeeded: Bool { self == .exited(0) }

    /// The number a shell shows in `$?`.
    public var shellCode: Int32 {
        switch self {
        case .exited(let code): code
        case .killed(let signal): 128 + signal
        }
    }

    public var description: String {
        switch self {
        case .exited(let code): "exit status \(code)"
        case .killed(let signal): "killed by signal \(signal)"
        }
    }
}

/// What a finished command left behind.
public struct CommandResult: Sendable {
    public let status: ExitStatus
    /// Standard output, decoded as UTF-8.
    public let output: String
    /// Standard error, decoded as UTF-8.
    public let errorOutput: String

    public var succeeded: Bool { status.succeeded }
    /// Standard output without white space at its ends.
    public var trimmed: String { output.trimmingWhitespace() }
}

extension String {
    func trimmingWhitespace() -> String {
        var view = self[...]
        while view.first?.isWhitespace == true { view.removeFirst() }
        while view.last?.isWhitespace == true { view.removeLast() }
        return String(view)
    }

    /// The whitespace-separated words of one line.
    var words: [String] { split(whereSeparator: \.isWhitespace).map(String.init) }
}
