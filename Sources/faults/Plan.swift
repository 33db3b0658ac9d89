import Migration

/// The cells, in the order in which they are tried.
enum Plan {
    static let both: Set<Side> = [.source, .destination]

    /// Points at which nothing has begun and those behind the end of mobilityctl's wait are points like any other.
    static let all: [Cell] = Waypoint.allCases.flatMap { point in
        faults(at: point).map { Cell(point: point, fault: $0) }
    }

    /// A minute's worth: the daemon of either side ends at each turn of the protocol.
    static let quick: [Cell] = [
        Waypoint.sourcePrepared, .sourceFrozen, .sourceInDoubt, .sourceCommitSent, .sourceDeparted,
        .destinationPrepared,
        .destinationComplete, .destinationCommit, .destinationDecided, .destinationThawed,
    ].map { point in
        Cell(point: point, fault: .killDaemon(point.rawValue.hasPrefix("source") ? .source : .destination))
    }

    private static func faults(at point: Waypoint) -> [Fault] {
        [.pause, .killDaemon(.source), .killDaemon(.destination)]
    }
}
