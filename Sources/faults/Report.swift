import Foundation
import Lab

/// What the cells came to, as text and as files.
struct Report {
    let results: [CellResult]
    let seconds: Int

    private func count(_ outcomes: Outcome...) -> Int { results.count { outcomes.contains($0.outcome) } }

    /// Cells after which exactly one host ran the service.
    private var ranOnce: Int {
        count(.moved, .rolledBack, .inDoubtThenMoved, .inDoubtThenRolledBack, .ended, .restarted, .reset)
    }

    var summary: String {
        let lines = Outcome.allCases.compactMap { outcome -> String? in
            let number = count(outcome)
            return number > 0 ? "\(number) \(outcome.rawValue)" : nil
        }
        return "\(results.count) cells in \(seconds) s: " + lines.joined(separator: ", ")
    }

    func write() throws {
        let docs = Product.repository + "/docs"
        try markdown.write(toFile: docs + "/faults.md", atomically: true, encoding: .utf8)
        let path = docs + "/measurements.json"
        var figures: [String: Any] = [:]
        if let data = FileManager.default.contents(atPath: path) {
            guard let object = try JSONSerialization.jsonObject(with: data) as? [String: Any] else {
                throw LabError("\(path) is no JSON object")
            }
            figures = object
        }
        figures["faults"] = [
            "cells": results.count, "ran_once": ranOnce, "lost": count(.lost), "twice": count(.twice),
            "reset": count(.reset),
        ]
        let data = try JSONSerialization.data(withJSONObject: figures, options: [.prettyPrinted, .sortedKeys])
        try (data + Data("\n".utf8)).write(to: URL(fileURLWithPath: path))
    }

    private var markdown: String { summary + "\n" }
}
