/// Text that systemd's parser gives back unchanged.
public enum UnitText {
    /// One argument of an Exec line, quoted: `%` and `$` are doubled, control characters become C escapes
    /// (systemd.service(5) "Command lines", systemd.syntax(7)).
    public static func argument(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "%": result += "%%"
            case "$": result += "$$"
            case "\\": result += "\\\\"
            case "\"": result += "\\\""
            case "\n": result += "\\n"
            case "\t": result += "\\t"
            case _ where scalar.value < 32 || scalar.value == 127:
                let hex = String(scalar.value, radix: 16)
                result += "\\x" + (hex.count < 2 ? "0" : "") + hex
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
    }

    /// Safe to stand in a comment: one line.
    static func comment(_ text: String) -> String {
        String(text.map { $0.isNewline ? " " : $0 })
    }
}
