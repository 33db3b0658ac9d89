/// A place in a unit file.
public struct SourcePosition: Hashable, Sendable, CustomStringConvertible {
    /// Absolute path of the file.
    public let file: String
    /// Line, from 1; 0 means the file as a whole.
    public let line: Int

    public init(file: String, line: Int) {
        self.file = file
        self.line = line
    }

    /// `file:line`, or only the file.
    public var description: String { line == 0 ? file : "\(file):\(line)" }
}

/// A unit file or drop-in taken apart as systemd.syntax(7) says; every item remembers its line.
public struct UnitFile: Sendable {
    /// `[Name]`.
    public struct Section: Sendable {
        public let name: String
        public let position: SourcePosition
    }

    /// `Key=Value`, the value with continuation lines joined and specifiers not yet expanded.
    public struct Assignment: Sendable {
        public let section: String
        public let key: String
        public let value: String
        public let position: SourcePosition
    }

    /// A line that is neither comment, section nor assignment.
    public struct Malformed: Sendable {
        /// The section it stands in; for a broken section header what follows the bracket.
        public let section: String
        public let text: String
        public let position: SourcePosition
    }

    public private(set) var sections: [Section] = []
    public private(set) var assignments: [Assignment] = []
    public private(set) var malformed: [Malformed] = []

    /// Takes `text` apart; never fails, what is not understood is listed in `malformed`.
    public init(_ text: String, path: String) {
        var current = ""
        for (line, content) in UnitFile.logicalLines(text) {
            let position = SourcePosition(file: path, line: line)
            if content.hasPrefix("[") {
                guard content.hasSuffix("]"), content.count > 2 else {
                    current = ""
                    let name = String(content.dropFirst())
                    malformed.append(Malformed(section: name, text: content, position: position))
                    continue
                }
                current = String(content.dropFirst().dropLast())
                sections.append(Section(name: current, position: position))
            } else if let equals = content.firstIndex(of: "="), equals != content.startIndex {
                let key = trimmed(content[..<equals])
                let value = trimmed(content[content.index(after: equals)...])
                assignments.append(Assignment(section: current, key: key, value: value, position: position))
            } else {
                malformed.append(Malformed(section: current, text: content, position: position))
            }
        }
    }

    /// Lines that mean something, with the number of their first physical line. A backslash at the end continues a
    /// line, a comment within a continuation is skipped (systemd.syntax(7)).
    static func logicalLines(_ text: String) -> [(Int, String)] {
        var result: [(Int, String)] = []
        var pending: (line: Int, text: String)?
        var number = 0
        let body = text.hasPrefix("\u{FEFF}") ? text.dropFirst() : text[...]
        for raw in body.split(omittingEmptySubsequences: false, whereSeparator: \.isNewline) {
            number += 1
            let start = trimmed(raw)
            if start.hasPrefix("#") || start.hasPrefix(";") { continue }
            let continues = raw.hasSuffix("\\")
            let piece = continues ? String(raw.dropLast()) : String(raw)
            if let open = pending {
                // systemd puts one space in the place of the backslash and the end of line.
                pending = (open.line, open.text + " " + piece)
            } else if !start.isEmpty {
                pending = (number, piece)
            }
            if !continues, let whole = pending {
                result.append((whole.line, trimmed(whole.text[...])))
                pending = nil
            }
        }
        if let whole = pending { result.append((whole.line, trimmed(whole.text[...]))) }
        return result.filter { !$0.1.isEmpty }
    }
}

/// Without white space at both ends, as systemd's parser sees it.
func trimmed(_ text: Substring) -> String {
    var text = text
    while let first = text.first, first.isWhitespace { text = text.dropFirst() }
    while let last = text.last, last.isWhitespace { text = text.dropLast() }
    return String(text)
}

/// Splits at white space; quotes keep words together and a backslash takes the next character as it is. Nil when a
/// quote stays open.
func splitWords(_ text: String) -> [String]? {
    var words: [String] = []
    var word: String?
    var quote: Character?
    var escaped = false
    for character in text {
        if escaped {
            word = (word ?? "") + String(character)
            escaped = false
        } else if character == "\\" {
            escaped = true
        } else if let open = quote {
            if character == open { quote = nil } else { word = (word ?? "") + String(character) }
        } else if character == "\"" || character == "'" {
            quote = character
            word = word ?? ""
        } else if character.isWhitespace {
            if let done = word { words.append(done) }
            word = nil
        } else {
            word = (word ?? "") + String(character)
        }
    }
    if quote != nil || escaped { return nil }
    if let done = word { words.append(done) }
    return words
}
