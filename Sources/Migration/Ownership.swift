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
        /// Moved to that node.
        case departed(to: String)
        /// Frozen here and committed by us, but the destination has not answered.
        case inDoubt(move: String, destination: String)
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
        guard let text = try? Files.readText(path(unit)) else { return .here }
        let words = text.split(whereSeparator: { $0 == " " || $0 == "\n" }).map(String.init)
        switch words.first {
        case "departed" where words.count == 2: return .departed(to: words[1])
        case "in-doubt" where words.count == 3: return .inDoubt(move: words[1], destination: words[2])
        default: return .here
        }
    }

    public func record(_ state: State, for unit: String) throws(KernelError) {
        let text =
            switch state {
            case .here: "here\n"
            case .departed(let node): "departed \(node)\n"
            case .inDoubt(let move, let destination): "in-doubt \(move) \(destination)\n"
            }
        try Files.writeAtomically(path(unit), text, mode: 0o600)
    }

    /// The destination's record that a move was committed: what answers a later query after a crash.
    public func recordCommitted(move: String, unit: String) throws(KernelError) {
        try Files.writeAtomically("\(directory)/moves/\(move)", "\(unit)\n", mode: 0o600)
    }

    public func wasCommitted(move: String) -> Bool {
        !move.contains("/") && Files.exists("\(directory)/moves/\(move)")
    }

    /// The source has heard of the commit and will not ask again.
    public func forgetMove(_ move: String) { try? Files.remove("\(directory)/moves/\(move)") }
}
