import Glibc
import Kernel

/// Which node owns each unit, as far as this node knows: one small file a unit below /var/lib/mobilityd.
///
/// A unit without a file has never moved: it is this node's own to start. The file is written, synced and renamed
/// before the event it records takes effect, so that a crash finds the older or the newer truth, never a part.
public struct OwnershipJournal: Sendable {
    public enum State: Equatable, Sendable {
        /// Here, or free to start here.
        case here
        /// Here since that move, but its source has not yet confirmed that it has recorded its departure.
        case arrived(move: String, source: String)
        /// Moved to that node.
        case departed(to: String)
        /// Frozen here and committed by us, but the destination has not answered.
        case inDoubt(move: String, destination: String)
        /// The record is there and cannot be read: whose the unit is must not be guessed.
        case unknown(why: String)

        /// Whether the service may run here now.
        public var isHere: Bool {
            switch self {
            case .here, .arrived: true
            case .departed, .inDoubt, .unknown: false
            }
        }
    }

    let directory: String

    public init(directory: String = "/var/lib/mobilityd/ownership") throws(KernelError) {
        self.directory = directory
        try Files.makeDirectories(directory, mode: 0o700)
        try Files.makeDirectories(directory + "/moves", mode: 0o700)
    }

    private func path(_ unit: String) -> String { "\(directory)/\(Self.fileName(unit))" }

    /// A unit name may hold any byte but `/`; file names that begin with a dot are not ours.
    private static func fileName(_ unit: String) -> String { "unit-" + unit }

    public func state(of unit: String) -> State {
        let text: String
        do throws(KernelError) { text = try Files.readText(path(unit)) } catch {
            return error.code == .noEntry ? .here : .unknown(why: "\(error)")
        }
        let words = text.split(whereSeparator: { $0 == " " || $0 == "\n" }).map(String.init)
        switch words.first {
        case "departed" where words.count == 2: return .departed(to: words[1])
        case "in-doubt" where words.count == 3: return .inDoubt(move: words[1], destination: words[2])
        case "arrived" where words.count == 3: return .arrived(move: words[1], source: words[2])
        case "here" where words.count == 1: return .here
        default:
            return .unknown(
                why: "\(path(unit)) says neither here, arrived MOVE NODE, departed NODE nor in-doubt MOVE NODE")
        }
    }

    public func record(_ state: State, for unit: String) throws(KernelError) {
        let text =
            switch state {
            case .here: "here\n"
            case .arrived(let move, let source): "arrived \(move) \(source)\n"
            case .departed(let node): "departed \(node)\n"
            case .inDoubt(let move, let destination): "in-doubt \(move) \(destination)\n"
            case .unknown(let why): preconditionFailure("nobody records that he does not know: \(why)")
            }
        try Files.writeAtomically(path(unit), text, mode: 0o600)
    }

    /// The destination's record that a move was committed: what answers a later query after a crash.
    public func recordCommitted(move: String, unit: String) throws(KernelError) {
        try Files.writeAtomically("\(directory)/moves/\(move)", "\(unit)\n", mode: 0o600)
    }

    /// Only a name that is surely not there means no: what cannot be read is an error.
    public func wasCommitted(move: String) throws(KernelError) -> Bool {
        if move.isEmpty || move.contains("/") { return false }
        do throws(KernelError) {
            _ = try Files.readText("\(directory)/moves/\(move)")
            return true
        } catch  where error.code == .noEntry {
            return false
        }
    }

    /// The moves to this host that were committed and are not yet settled, with the unit of each.
    func committedMoves() throws(KernelError) -> [(move: String, unit: String)] {
        var found: [(move: String, unit: String)] = []
        for move in try Files.list(directory + "/moves") {
            let unit = try Files.readText("\(directory)/moves/\(move)").split(separator: "\n").first
            if let unit { found.append((move, String(unit))) }
        }
        return found
    }

    /// Takes back the record of a commit that did not come to be; what was not there is no error.
    public func forgetMove(_ move: String) throws(KernelError) {
        let path = "\(directory)/moves/\(move)"
        do throws(KernelError) { try Files.remove(path) } catch  where error.code == .noEntry { return }
        try Files.syncDirectory(of: path)
    }
}
