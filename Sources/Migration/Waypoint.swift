import Glibc
import Kernel

/// A named transition of a move, on its source or on its destination, at which a test can hold the daemon.
///
/// A seam for tests, not an option of the product: see docs/testing.md. `$MOBILITYD_PAUSE` names a directory; a daemon
/// that finds `POINT.arm` there when it passes that point renames it to `POINT.here` and goes on once that file is
/// gone, or after the milliseconds that it holds. Words behind that number are a plan of `FaultSeam`, which is armed as
/// it goes on; without them none is armed any more. Without the variable a passage costs one branch.
public enum Waypoint: String, CaseIterable, Sendable {
    case sourceChecking = "source.checking"
    case sourceOffered = "source.offer-sent"
    case sourceVerdict = "source.verdict"
    case sourceStaged = "source.drop-in-staged"
    case sourcePreparing = "source.prepare-sent"
    case sourcePrepared = "source.prepared"
    case sourceHeld = "source.held"
    case sourceGathered = "source.gathered"
    case sourceFrozen = "source.frozen"
    case sourceCaptured = "source.captured"
    case sourceImageSent = "source.image-sent"
    case sourcePagesSent = "source.pages-sent"
    case sourceComplete = "source.complete-sent"
    case sourceReady = "source.ready"
    case sourceInDoubt = "source.in-doubt-recorded"
    case sourceCommitSent = "source.commit-sent"
    case sourceCommitted = "source.committed"
    case sourceDeparted = "source.departed-recorded"
    case sourceForwarding = "source.forwarding"
    case sourceEnded = "source.ended"
    case sourceCleared = "source.drop-in-removed"

    case destinationOffer = "destination.offer"
    case destinationVerdict = "destination.verdict-sent"
    case destinationStaged = "destination.drop-in-staged"
    case destinationStarted = "destination.unit-started"
    case destinationMade = "destination.processes-made"
    case destinationAnnounced = "destination.main-process-announced"
    case destinationPrepared = "destination.prepared"
    case destinationImage = "destination.image"
    case destinationPages = "destination.pages"
    case destinationRestored = "destination.state-restored"
    case destinationComplete = "destination.complete"
    case destinationReady = "destination.ready-sent"
    case destinationCommit = "destination.commit"
    case destinationDecided = "destination.commit-recorded"
    case destinationArrived = "destination.arrival-recorded"
    case destinationSpeaking = "destination.address-announced"
    case destinationThawed = "destination.thawed"
    case destinationCommitted = "destination.committed-sent"
    case destinationFrames = "destination.frames"
    case destinationReleased = "destination.released"
    case destinationSettling = "destination.settling"
    case destinationSettled = "destination.settled"

    /// The environment variable that names the directory.
    public static let variable = "MOBILITYD_PAUSE"
    private static let directory: String? = getenv(variable).map { String(cString: $0) }

    /// Between looks whether to go on, µs.
    private static let pause: UInt32 = 500

    func pass() {
        guard let directory = Self.directory else { return }
        hold(in: directory)
    }

    // The calls are plain: a fault seam that is armed besides must not count them.
    private func hold(in directory: String) {
        let here = "\(directory)/\(rawValue).here"
        guard rename("\(directory)/\(rawValue).arm", here) == 0, let file = fopen(here, "r") else { return }
        var text = [CChar](repeating: 0, count: 80)
        let isRead = fgets(&text, Int32(text.count), file) != nil
        fclose(file)
        let words =
            isRead
            ? String(cString: text).split(whereSeparator: \.isNewline).first?.split(
                separator: " ", maxSplits: 1) : nil
        var left = (words?.first.flatMap { Int($0) } ?? 0) * 1000
        defer { FaultSeam.arm(words?.dropFirst().first.flatMap { FaultSeam.Plan(String($0)) }) }
        while left > 0, access(here, F_OK) == 0 {
            usleep(Self.pause)
            left -= Int(Self.pause)
        }
    }
}
