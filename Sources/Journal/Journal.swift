import CSystemd
import Glibc
import Logging

/// A log handler that gives each event to the systemd journal as structured fields, sd_journal_sendv(3).
///
/// `MESSAGE`, `PRIORITY`, `CODE_FILE`, `CODE_LINE`, `CODE_FUNC` and `LOGGER` are set; each metadata key becomes a
/// field `MOBILITY_KEY` in upper case, so that `journalctl MOBILITY_UNIT=web.service` finds a unit's events. Where
/// there is no journal, lines go to standard error with the `<N>` prefix of sd-daemon(3); on a terminal without it.
public struct JournalLogHandler: LogHandler {
    public var metadata: Logger.Metadata = [:]
    public var metadataProvider: Logger.MetadataProvider?
    public var logLevel: Logger.Level
    private let label: String
    private let sink: Sink

    /// Where the lines go.
    public enum Sink: Sendable, Equatable {
        case journal
        case standardError(prefixed: Bool)

        /// The terminal if standard error is one, else the journal if its socket is there, else standard error.
        public static func detect() -> Sink {
            if isatty(2) == 1 { return .standardError(prefixed: false) }
            return access("/run/systemd/journal/socket", W_OK) == 0 ? .journal : .standardError(prefixed: true)
        }
    }

    public init(label: String, level: Logger.Level = .info, sink: Sink = .detect()) {
        self.label = label
        self.logLevel = level
        self.sink = sink
    }

    public subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    public func log(event: LogEvent) {
        var fields = metadata
        if let provider = metadataProvider { fields.merge(provider.get()) { $1 } }
        if let own = event.metadata { fields.merge(own) { $1 } }
        let priority = Self.priority(of: event.level)
        if sink == .journal {
            var lines = [
                "MESSAGE=\(event.message)", "PRIORITY=\(priority)", "LOGGER=\(label)",
                "CODE_FILE=\(event.file)", "CODE_LINE=\(event.line)", "CODE_FUNC=\(event.function)",
            ]
            for (key, value) in fields.sorted(by: { $0.key < $1.key }) {
                lines.append("\(Self.fieldName(key))=\(value)")
            }
            if Self.send(lines) { return }
        }
        Self.print(event, fields: fields, priority: priority, prefixed: sink != .standardError(prefixed: false))
    }

    /// The syslog(3) priority of a level: 7 debug … 2 critical.
    public static func priority(of level: Logger.Level) -> Int32 {
        switch level {
        case .trace, .debug: 7
        case .info: 6
        case .notice: 5
        case .warning: 4
        case .error: 3
        case .critical: 2
        }
    }

    /// `unit` → `MOBILITY_UNIT`; what a journal field name may not hold becomes an underscore.
    public static func fieldName(_ key: String) -> String {
        let name = key.uppercased().map { character in
            character.isASCII && (character.isLetter || character.isNumber) ? character : "_"
        }
        return "MOBILITY_" + String(name).prefix(55)
    }

    private static func send(_ lines: [String]) -> Bool {
        let buffers = lines.map { line in
            let bytes = UnsafeMutableBufferPointer<UInt8>.allocate(capacity: line.utf8.count)
            _ = bytes.initialize(fromContentsOf: Array(line.utf8))
            return bytes
        }
        defer { buffers.forEach { $0.deallocate() } }
        let vector = buffers.map { iovec(iov_base: $0.baseAddress, iov_len: $0.count) }
        return sd_journal_sendv(vector, Int32(vector.count)) >= 0
    }

    private static func print(_ event: LogEvent, fields: Logger.Metadata, priority: Int32, prefixed: Bool) {
        let details = fields.sorted { $0.key < $1.key }.map { " \($0.key)=\($0.value)" }.joined()
        var text = ""
        // A line break would begin a line of another priority.
        for line in "\(event.message)\(details)".split(separator: "\n", omittingEmptySubsequences: true) {
            text += prefixed ? "<\(priority)>\(line)\n" : "\(line)\n"
        }
        // One write, so that lines of several threads do not mix; nobody to tell if it fails.
        _ = text.withCString { write(2, $0, strlen($0)) }
    }
}
