import Glibc
import Kernel
import Lab
import Synchronization

/// Works through the cells, with one lab or several side by side.
final class Course: Sendable {
    private let cells: [Cell]
    private let name: String
    private let jobs: Int
    private let next = Mutex(0)
    private let results = Mutex<[Int: CellResult]>([:])

    init(cells: [Cell], name: String, jobs: Int) {
        self.cells = cells
        self.name = name
        self.jobs = max(1, min(jobs, cells.count))
    }

    /// The results in the order of the cells.
    func run() throws -> [CellResult] {
        let workers = try (1...jobs).map { number in
            let done = try Promise<Bool>()
            try BlockingThread.start("faults \(number)") { [self] in
                work(as: jobs == 1 ? name : "\(name)-\(number)")
                done.fulfil(true)
            }
            return done
        }
        for worker in workers { _ = worker.wait(milliseconds: -1) }
        return results.withLock { table in table.keys.sorted().compactMap { table[$0] } }
    }

    private func take() -> Int? {
        next.withLock { next in
            guard next < cells.count else { return nil }
            defer { next += 1 }
            return next
        }
    }

    private func work(as lab: String) {
        var bench: Bench?
        while let index = take() {
            let cell = cells[index]
            let start = Clock.monotonic
            let result: CellResult
            do {
                let current = try bench ?? Bench(name: lab)
                bench = current
                result = try Trial(bench: current, cell: cell).run()
            } catch {
                result = CellResult(
                    cell: cell, outcome: .stuck, detail: "\(error)",
                    milliseconds: Int((Clock.monotonic - start) / 1_000_000))
            }
            results.withLock { $0[index] = result }
            say(line(index, result))
            // What comes after a bad end would be judged by its consequences.
            if result.outcome.isBad, result.outcome != .missed {
                bench?.down()
                bench = nil
            }
        }
        bench?.down()
    }

    private func line(_ index: Int, _ result: CellResult) -> String {
        let time = "\(result.milliseconds / 1000).\(result.milliseconds % 1000 / 100) s"
        return "\(index + 1)/\(cells.count) \(result.cell.title): \(result.outcome.rawValue), \(time)"
            + (result.detail.isEmpty ? "" : "\n    \(result.detail)")
    }
}
