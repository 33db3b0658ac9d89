import Glibc

/// One JSON object on one line, written at once so that a reader of the file never sees half of it.
struct JSONLine {
    private var members: [String] = []

    mutating func add(_ name: String, _ value: Int) { members.append("\"\(name)\":\(value)") }
    mutating func add(_ name: String, _ value: Bool) { members.append("\"\(name)\":\(value)") }
    mutating func add(_ name: String, _ value: String) {
        let escaped = value.map { $0 == "\"" || $0 == "\\" ? "\\\($0)" : $0 < " " ? " " : String($0) }.joined()
        members.append("\"\(name)\":\"\(escaped)\"")
    }
    /// Nanoseconds as milliseconds with three decimals.
    mutating func add(_ name: String, nanoseconds: Int64) {
        let micro = max(0, nanoseconds) / 1000
        let decimals = String(1000 + micro % 1000).dropFirst()
        members.append("\"\(name)\":\(micro / 1000).\(decimals)")
    }

    func print() {
        let bytes = [UInt8](("{" + members.joined(separator: ",") + "}\n").utf8)
        _ = write(1, bytes, bytes.count)
    }
}
