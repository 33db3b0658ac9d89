/// One thing that is wrong in an `[X-Mobility]` section.
public struct AnnotationError: Error, Hashable, Sendable, CustomStringConvertible {
    /// The file that holds it.
    public let file: String
    /// Its line, from 1; 0 means the file as a whole.
    public let line: Int
    /// The key it is about; the section's name where it is about no single key.
    public let key: String
    /// The value as it stands in the file.
    public let value: String
    /// What is wrong.
    public let why: String
    /// What would be right.
    public let allowed: String

    public init(at position: SourcePosition, key: String, value: String, why: String, allowed: String) {
        file = position.file
        line = position.line
        self.key = key
        self.value = value
        self.why = why
        self.allowed = allowed
    }

    /// `file:line: key: why`, the value and what is allowed.
    public var description: String {
        let shown = value.isEmpty ? "" : " (\"\(value)\")"
        return "\(SourcePosition(file: file, line: line)): \(key): \(why)\(shown); allowed: \(allowed)"
    }
}

/// Everything that is wrong with one unit's annotation; never empty.
public struct AnnotationErrors: Error, Hashable, Sendable, CustomStringConvertible {
    /// The unit whose annotation it is.
    public let unit: String
    public let errors: [AnnotationError]

    public init(unit: String, errors: [AnnotationError]) {
        self.unit = unit
        self.errors = errors
    }

    /// One line an error.
    public var description: String { errors.map(\.description).joined(separator: "\n") }
}
