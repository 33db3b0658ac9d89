import Foundation
import Lab
import Migration

/// What the cells came to, as text and as files.
struct Report {
    let results: [CellResult]
    let seconds: Int

    private func count(_ outcomes: Outcome...) -> Int { results.count { outcomes.contains($0.outcome) } }

    /// Cells that ended as they must: a service that was told to stop runs once when it is started again.
    private var ranOnce: Int {
        results.count { !$0.outcome.isBad } + count(.reset)
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
        try Measurements.write(
            "faults",
            [
                "cells": results.count, "ran_once": ranOnce, "lost": count(.lost), "twice": count(.twice),
                "reset": count(.reset), "ended": count(.ended),
            ])
    }

    // MARK: - docs/faults.md

    private var markdown: String {
        """
        # A fault at every point of the protocol

        Written by `make faults`; [testing.md](testing.md) says how. \(summary).

        After each fault the service must run exactly once, as the same process and with every connection, unless the
        fault was its own end, and its next move must succeed.

        | outcome | cells | means |
        |---|---|---|
        \(outcomes)

        \(Side.allCases.map { matrices($0, forGood: false) }.joined(separator: "\n\n"))

        # What never heals

        The wire or a host is gone for good. The service may run at most once, and what is left in doubt or unconfirmed
        an administrator ends by `mobilityctl resolve`, having switched the other host off. Then the other host comes
        back, and the next move must succeed.

        \(Side.allCases.map { matrices($0, forGood: true) }.joined(separator: "\n\n"))

        \(exceptions)
        """
    }

    private var outcomes: String {
        Outcome.allCases.compactMap { outcome in
            let number = count(outcome)
            guard number > 0 else { return nil }
            return "| \(outcome.rawValue) (\(outcome.short)) | \(number) | \(outcome.meaning) |"
        }.joined(separator: "\n")
    }

    /// Points downwards, faults across, in as many tables as the width asks for.
    private func matrices(_ side: Side, forGood: Bool) -> String {
        let own = results.filter { $0.cell.point.side == side && $0.cell.fault.isForGood == forGood }
        var faults: [Fault] = []
        for result in own where !faults.contains(result.cell.fault) { faults.append(result.cell.fault) }
        let points = Waypoint.allCases.filter { point in own.contains { $0.cell.point == point } }
        let tables = stride(from: 0, to: faults.count, by: 8).map { start -> String in
            let columns = Array(faults[start..<min(start + 8, faults.count)])
            let head = "| point | " + columns.map(\.short).joined(separator: " | ") + " |\n|---|"
            let rows = points.map { point -> String in
                let name = point.rawValue.split(separator: ".").last.map(String.init) ?? ""
                let cells = columns.map { fault in
                    own.first { $0.cell == Cell(point: point, fault: fault) }?.outcome.short ?? ""
                }
                return "| \(name) | " + cells.joined(separator: " | ") + " |"
            }
            return head + String(repeating: "---|", count: columns.count) + "\n" + rows.joined(separator: "\n")
        }
        return "## The \(side.rawValue) is held\n\n" + tables.joined(separator: "\n\n")
    }

    private var exceptions: String {
        let bad = results.filter(\.outcome.isBad)
        if bad.isEmpty { return "No cell ended otherwise than it may.\n" }
        return "## Cells that ended otherwise than they may\n\n"
            + bad.map { "- \($0.cell.title): \($0.outcome.rawValue)" }.joined(separator: "\n") + "\n"
    }
}
