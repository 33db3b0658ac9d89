import Glibc
import Kernel

/// The INI files of /etc/mobilityd: one section `[Node]`, `Key=value`, comments from `#` or `;` at a line's start.
struct NodeFile {
    private var values: [String: (value: String, line: Int)] = [:]
    let path: String

    /// Parses `text`; every key must be one of `known` and stand once.
    init(path: String, text: String, known: Set<String>) throws(PeeringError) {
        self.path = path
        var inNode = false
        for (index, raw) in text.split(separator: "\n", omittingEmptySubsequences: false).enumerated() {
            let number = index + 1
            let line = Self.trim(raw)
            if line.isEmpty || line.hasPrefix("#") || line.hasPrefix(";") { continue }
            if line.hasPrefix("[") {
                guard line == "[Node]" else { throw fault(number, line, "unknown section, expected [Node]") }
                inNode = true
                continue
            }
            guard let equals = line.firstIndex(of: "=") else { throw fault(number, line, "is not Key=value") }
            let key = Self.trim(line[..<equals])
            guard inNode else { throw fault(number, key, "stands before the section [Node]") }
            guard known.contains(key) else {
                throw fault(number, key, "unknown key, expected one of \(known.sorted().joined(separator: ", "))")
            }
            guard values[key] == nil else { throw fault(number, key, "stands twice") }
            values[key] = (Self.trim(line[line.index(after: equals)...]), number)
        }
    }

    static func read(_ path: String, known: Set<String>) throws(PeeringError) -> NodeFile {
        let text: String
        do { text = try Files.readText(path) } catch { throw .kernel(error) }
        return try NodeFile(path: path, text: text, known: known)
    }

    func fault(_ line: Int, _ key: String, _ why: String) -> PeeringError {
        .configuration(file: path, line: line, key: key, why: why)
    }

    /// The value of `key` when it is there and not empty.
    func text(_ key: String) -> String? {
        guard let entry = values[key], !entry.value.isEmpty else { return nil }
        return entry.value
    }

    /// A numeric IP address.
    func address(_ key: String) throws(PeeringError) -> String? {
        guard let value = text(key) else { return nil }
        guard SocketAddress(value, port: 0) != nil else {
            throw fault(line(key), key, "`\(value)` is not a numeric IPv4 or IPv6 address")
        }
        return value
    }

    func port(_ key: String) throws(PeeringError) -> UInt16 {
        guard let value = text(key) else { return NodeSettings.defaultPort }
        guard let port = UInt16(value), port > 0 else {
            throw fault(line(key), key, "`\(value)` is not a port from 1 to 65535")
        }
        return port
    }

    func line(_ key: String) -> Int { values[key]?.line ?? 1 }

    private static func trim(_ text: some StringProtocol) -> String {
        let blank: (Character) -> Bool = { $0 == " " || $0 == "\t" || $0 == "\r" }
        let start = text.drop(while: blank)
        return String(start.reversed().drop(while: blank).reversed())
    }
}

/// The node's own settings, /etc/mobilityd/mobilityd.conf, section [Node].
public struct NodeSettings: Equatable, Sendable {
    /// The port on which nodes meet.
    public static let defaultPort: UInt16 = 7413

    /// `Name=`; the host's name when not set.
    public var name: String
    /// `Listen=`; nil listens on every address.
    public var listen: String?
    /// `Port=`.
    public var port: UInt16

    /// Reads the file below `root`; a missing file means all defaults.
    public static func load(root: String = "") throws(PeeringError) -> NodeSettings {
        let path = root + "/etc/mobilityd/mobilityd.conf"
        guard Files.exists(path) else {
            return NodeSettings(name: hostName(), listen: nil, port: defaultPort)
        }
        // PidRangeStart= is read by mobility-pids.service.
        let file = try NodeFile.read(path, known: ["Name", "Listen", "Port", "PidRangeStart"])
        let name = file.text("Name") ?? hostName()
        guard NodeName.isValid(name) else { throw file.fault(file.line("Name"), "Name", NodeName.rule(name)) }
        return NodeSettings(name: name, listen: try file.address("Listen"), port: try file.port("Port"))
    }

    private static func hostName() -> String {
        var text = [CChar](repeating: 0, count: 65)
        guard gethostname(&text, text.count - 1) == 0 else { return "localhost" }
        return String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}

/// What a node may be called: 1 to 64 of `[a-zA-Z0-9._-]`, not starting with a dot, since it is a file name too.
public enum NodeName {
    public static func isValid(_ name: String) -> Bool {
        (1...64).contains(name.utf8.count) && !name.hasPrefix(".")
            && name.utf8.allSatisfy { byte in
                switch byte {
                case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                    UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "-"):
                    return true
                default: return false
                }
            }
    }

    static func rule(_ name: String) -> String {
        "`\(name)` is not a node name: 1 to 64 of a-z A-Z 0-9 . _ -, not starting with a dot"
    }
}
