import Migration

/// The cells, in the order in which they are tried.
enum Plan {
    /// Every fault at every point at which there is something to do it to; those that never heal come last.
    static let all: [Cell] = (faults + lasting).flatMap { fault, points in
        points.map { Cell(point: $0, fault: fault) }
    }

    /// A minute's worth: the daemon of either side ends at each turn of the protocol.
    static let quick: [Cell] = [
        Waypoint.sourcePrepared, .sourceFrozen, .sourceInDoubt, .sourceCommitSent, .sourceDeparted,
        .destinationPrepared,
        .destinationComplete, .destinationCommit, .destinationDecided, .destinationThawed,
    ].map { point in Cell(point: point, fault: .killDaemon(point.side)) }

    private static let faults: [(Fault, [Waypoint])] =
        [
            (.pause, Waypoint.allCases),
            (.killDaemon(.source), Waypoint.allCases),
            (.killDaemon(.destination), Waypoint.allCases),
            (.killHolder, holder),
            (.killArriving(main: true), arriving),
            (.killArriving(main: false), arriving.filter(turns.contains)),
            (.killService(main: true), departing),
            (.killService(main: false), departing.filter(turns.contains)),
            (.cut, channel),
            (.stall(to: [.source, .destination]), channel.filter(turns.contains)),
            (.stall(to: [.source]), messages),
            (.stall(to: [.destination]), messages),
            (.sever, channel),
        ] + commands + [
            (.noPids, resources),
            (.noMemory(2000), resources),
            (.noDisk, resources),
            (.stopAndCut("stop"), [.sourcePrepared, .sourceFrozen, .sourceImageSent, .sourceReady]),
            (.stopAndCut("restart"), [.sourcePrepared, .sourceFrozen, .sourceImageSent, .sourceReady]),
            (.failingCall(1, "ENOMEM"), Waypoint.allCases.filter { $0.side == .destination }),
            (.failingCall(2, "ENOSPC"), Waypoint.allCases.filter { $0.side == .destination }),
            (.failingCall(3, "EAGAIN"), Waypoint.allCases.filter { $0.side == .destination }),
            (.failingCall(2, "ENOSPC"), Waypoint.allCases.filter { $0.side == .source && turns.contains($0) }),
            (.crash(.source), Waypoint.allCases.filter(turns.contains)),
            (.crash(.destination), Waypoint.allCases.filter(turns.contains)),
        ]

    /// What only an administrator ends.
    private static let lasting: [(Fault, [Waypoint])] = [
        (.severForGood(.keep), Waypoint.allCases.filter(turns.contains)),
        (.severForGood(.giveUp), Waypoint.allCases.filter(turns.contains)),
        (.stallForGood(to: [.source, .destination]), messages),
        (.stallForGood(to: [.source]), messages),
        (.stallForGood(to: [.destination]), messages),
        (.crashForGood(.source), Waypoint.allCases.filter(turns.contains)),
        (.crashForGood(.destination), Waypoint.allCases.filter(turns.contains)),
    ]

    /// systemctl(1) on the host that is held.
    private static var commands: [(Fault, [Waypoint])] {
        Side.allCases.flatMap { side in
            let points = Waypoint.allCases.filter { $0.side == side && turns.contains($0) }
            return ["stop", "restart", "reload", "kill"].map { (Fault.systemctl($0, side), points) }
                + [(.daemonReload(side), points)]
        }
    }

    private static func range(_ first: Waypoint, _ last: Waypoint) -> [Waypoint] {
        let all = Waypoint.allCases
        guard let start = all.firstIndex(of: first), let end = all.firstIndex(of: last) else { return [] }
        return Array(all[start...end])
    }

    /// From the first message to the last packet.
    private static let channel =
        range(.sourceOffered, .sourceForwarding) + range(.destinationOffer, .destinationSettled)
    /// While mobility-arrive is there.
    private static let holder =
        range(.sourcePrepared, .sourceCommitted) + range(.destinationStarted, .destinationSettling)
    /// While the destination has processes for the service, or runs it.
    private static let arriving = range(.sourcePrepared, .sourceCleared) + range(.destinationMade, .destinationSettled)
    /// While the source has the service's processes.
    private static let departing =
        range(.sourceChecking, .sourceDeparted) + range(.destinationOffer, .destinationThawed)

    /// Where the other side is waited for, or has just been told something.
    private static let messages: [Waypoint] = [
        .sourceOffered, .sourcePreparing, .sourcePrepared, .sourceFrozen, .sourceComplete, .sourceReady,
        .sourceCommitSent, .sourceDeparted, .destinationVerdict, .destinationPrepared, .destinationPages,
        .destinationReady, .destinationDecided, .destinationCommitted,
    ]

    /// Where the destination still has something to make.
    private static let resources: [Waypoint] = [
        .destinationVerdict, .destinationStaged, .destinationStarted, .destinationMade, .destinationPrepared,
        .destinationImage, .destinationRestored, .destinationReady, .destinationCommit, .destinationDecided,
        .destinationThawed,
    ]

    /// Where the protocol takes a turn, for faults that take long or differ little from point to point.
    private static let turns: Set<Waypoint> = [
        .sourceOffered, .sourcePreparing, .sourcePrepared, .sourceHeld, .sourceFrozen, .sourceImageSent,
        .sourceComplete, .sourceReady, .sourceInDoubt, .sourceCommitSent, .sourceCommitted, .sourceDeparted,
        .sourceForwarding, .destinationVerdict, .destinationStarted, .destinationMade, .destinationPrepared,
        .destinationImage, .destinationRestored, .destinationReady, .destinationCommit, .destinationDecided,
        .destinationThawed, .destinationFrames, .destinationSettling,
    ]
}

extension Waypoint {
    /// Whose daemon passes it.
    var side: Side { rawValue.hasPrefix("source.") ? .source : .destination }
}
