import Foundation
import Kernel

/// The files in which figures stand: docs/measurements.json for programs, docs/measurements.md for people. Each
/// program that measures writes its own part and leaves the others as they are.
public enum Measurements {
    private static var json: String { Product.repository + "/docs/measurements.json" }
    private static var text: String { Product.repository + "/docs/measurements.md" }

    /// Replaces one key of the JSON file.
    public static func write<Value: Encodable>(_ key: String, _ value: Value) throws {
        var all: [String: Any] = [:]
        if let old = FileManager.default.contents(atPath: json) {
            guard let object = try JSONSerialization.jsonObject(with: old) as? [String: Any] else {
                throw LabError("\(json) is no JSON object")
            }
            all = object
        }
        all[key] = try JSONSerialization.jsonObject(with: JSONEncoder().encode(value))
        let data = try JSONSerialization.data(withJSONObject: all, options: [.prettyPrinted, .sortedKeys])
        try (data + Data("\n".utf8)).write(to: URL(fileURLWithPath: json))
    }

    /// Replaces the section that `title` heads, up to the next of its rank, or adds it.
    public static func write(section title: String, _ body: String) throws {
        let heading = "## \(title)"
        let old = FileManager.default.contents(atPath: text).map { String(decoding: $0, as: UTF8.self) }
        var lines = (old ?? "# Measurements\n\nWritten by the programs that measure; not by hand.\n")
            .split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
        if let start = lines.firstIndex(of: heading) {
            let end = lines[(start + 1)...].firstIndex { $0.hasPrefix("## ") } ?? lines.count
            lines.removeSubrange(start..<end)
        }
        while lines.last == "" { lines.removeLast() }
        lines += ["", heading, "", body, ""]
        try Data(lines.joined(separator: "\n").utf8).write(to: URL(fileURLWithPath: text))
    }

    /// Machine and day, for whoever reads the figures later.
    public static func circumstances() throws -> String {
        let kernel = try Files.readText("/proc/sys/kernel/osrelease").split(separator: "\n").first ?? ""
        let model = try Files.readText("/proc/cpuinfo").split(separator: "\n").first { $0.hasPrefix("model name") }
        let processors = ProcessInfo.processInfo.processorCount
        let format = DateFormatter()
        format.dateFormat = "yyyy-MM-dd"
        return "\(format.string(from: Date())), Linux \(kernel), \(processors) × "
            + (model?.split(separator: ":").last.map { $0.trimmingCharacters(in: .whitespaces) } ?? "unknown processor")
    }
}
