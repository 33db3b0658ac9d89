import Capture
import ProcessImage
import Resources

/// What the two nodes of a move say to each other; `docs/protocol.md` has the order.
///
/// The numbers are the wire's; 0 is never sent, so that zeroed memory is no message.
public enum MessageType: UInt16, Sendable {
    /// Source → destination: the service as it is before the freeze. Answer: `verdict`.
    case offer = 16
    case verdict
    /// Source → destination: start the unit and make the processes. Answer: `prepared` or `failure`.
    case prepare
    case prepared
    /// Source → destination, frozen: the image, then pages, then the end mark. Answer: `ready` or `failure`.
    case image
    case pages
    case complete
    case ready
    /// Source → destination: only you may run it from now on. Answer: `committed`.
    case commit
    case committed
    /// Source → destination: frames held for the virtual address.
    case frames
    case framesEnd
    /// Either side: this move is over, nothing of it remains on your side.
    case abort
    case failure
    /// Source → destination after a cut: how did this move end? Answer: `outcome`.
    case query
    case outcome
    /// May this unit be started at the asker's? Answer: `running`.
    case askRunning
    case running
    /// Source → destination, after `committed`: the departure is recorded, the service is yours for good.
    case departed
    /// Destination → source, after a cut: have you recorded it? Answer: `departure`.
    case askDeparted
    case departure

    /// Types whose payload may be large.
    public static let bulk: Set<UInt16> = [
        MessageType.offer.rawValue, MessageType.image.rawValue, MessageType.pages.rawValue,
        MessageType.frames.rawValue,
    ]
}

/// The service before the freeze, and what the destination needs to know of its unit.
public struct Offer: Codable, Sendable {
    /// Unique over both nodes for ever: source node, boot, count.
    public var move: String
    public var unit: String
    public var virtualAddresses: [String]
    public var interface: String?
    /// systemd's `Type=` and `PIDFile=` of the unit at the source; the destination's must agree.
    public var type: String
    public var pidFile: String
    public var mainPID: Int32
    public var sketch: ServiceSketch
    public var checkOnly: Bool
    public init(
        move: String, unit: String, virtualAddresses: [String], interface: String?, type: String, pidFile: String,
        mainPID: Int32, sketch: ServiceSketch, checkOnly: Bool
    ) {
        self.move = move
        self.unit = unit
        self.virtualAddresses = virtualAddresses
        self.interface = interface
        self.type = type
        self.pidFile = pidFile
        self.mainPID = mainPID
        self.sketch = sketch
        self.checkOnly = checkOnly
    }
}

/// One line of a check: the contract's (check, subject, passed, why).
public struct CheckLine: Codable, Sendable {
    public var check: String
    public var subject: String
    public var passed: Bool
    public var why: String
    public init(_ check: String, _ subject: String, passed: Bool, why: String) {
        self.check = check
        self.subject = subject
        self.passed = passed
        self.why = why
    }

    public init(_ refusal: Refusal) {
        check = "resource"
        subject = refusal.pid == 0 ? refusal.subject : "process \(refusal.pid) \(refusal.subject)"
        if !refusal.object.isEmpty { subject += " (\(refusal.object))" }
        passed = false
        why = "\(refusal.why); \(refusal.remedy)"
    }
}

struct Verdict: Codable, Sendable { var lines: [CheckLine] }
struct Reason: Codable, Sendable { var problem: String }

/// How a move ended as its destination knows it.
struct Outcome: Codable, Sendable {
    var move: String
    var committed: Bool
}

struct RunningAnswer: Codable, Sendable {
    var unit: String
    var running: Bool
    /// The node that the asked one gave the unit to, if that is neither of the two; `running` then as well.
    var owner: String?
}

struct DepartureAnswer: Codable, Sendable {
    var unit: String
    var departed: Bool
    /// The source was resolved otherwise and runs the unit itself.
    var kept: Bool
}

/// The head of a `pages` message; the content follows in the same payload.
struct PagesHead: Codable, Sendable {
    var runs: [PageRun]
}

/// What goes with the image: files that are the unit's own.
struct ImageMessage: Codable, Sendable {
    var image: ServiceImage
    var localState: LocalState
    /// Clients that the service has not accepted yet.
    var waiting: [WaitingConnection]
    var halfOpen: [WaitingClients.HalfOpen]
}

/// Frames as the hold queue gave them, in order.
struct FramesMessage: Codable, Sendable {
    /// 16 bytes, IPv4 mapped.
    var address: Bytes
    var frames: [Bytes]
}
