import Kernel

/// Where a move stands; the D-Bus property `Phase`.
public enum Phase: String, Codable, Sendable, CaseIterable {
    case checking, preparing, precopy, frozen, committing, done
    case rolledBack = "rolled-back"
    case failed

    /// Nothing more will happen.
    public var isFinal: Bool { self == .done || self == .rolledBack || self == .failed }
}

/// When each phase and each part of the frozen time began, on CLOCK_MONOTONIC of the host that keeps it.
public struct Timeline: Sendable {
    public struct Mark: Sendable {
        public let name: String
        /// Nanoseconds of CLOCK_MONOTONIC.
        public let at: Int64
    }

    public private(set) var marks: [Mark] = []
    public init() {}

    public mutating func mark(_ name: String) { marks.append(Mark(name: name, at: Clock.monotonic)) }

    /// Nanoseconds from the first mark `from` to the first mark `to`; nil when one is missing.
    public func span(from: String, to: String) -> Int64? {
        guard let start = marks.first(where: { $0.name == from }), let end = marks.first(where: { $0.name == to })
        else { return nil }
        return end.at - start.at
    }

    /// Each mark with the milliseconds until the next one.
    public var report: String {
        zip(marks, marks.dropFirst()).map { mark, next in
            let microseconds = (next.at - mark.at) / 1000
            return "\(mark.name) \(microseconds / 1000).\(Self.padded(microseconds % 1000)) ms"
        }.joined(separator: ", ")
    }

    private static func padded(_ value: Int64) -> String {
        let text = String(value)
        return String(repeating: "0", count: max(0, 3 - text.count)) + text
    }
}

/// Why a move did not take place.
public struct MoveError: Error, Sendable, CustomStringConvertible {
    public enum Kind: String, Codable, Sendable {
        /// The check found something that cannot be carried; nothing was touched.
        case refused
        /// The unit, the node or an option does not exist or is in no state to move.
        case invalid
        case badAnnotation
        /// Another unit or another host has the address.
        case addressInUse
        case addressUnavailable
        /// The other node could not be reached or the channel broke.
        case channel
        /// A step failed on this or on the other host.
        case step
        case cancelled
        /// The service changed while it was captured; trying again can succeed.
        case changed
        /// The service has made or ended processes since it was described to the destination; describing it again can
        /// succeed.
        case reshaped
    }

    public var kind: Kind
    public var problem: String

    public init(_ kind: Kind, _ problem: String) {
        self.kind = kind
        self.problem = problem
    }

    public var description: String { problem }
}
