/// What has been done so far and how to undo it, newest first: the roll-back of one side of a move.
///
/// A step registers its undoing as soon as it has taken effect. `commit` forgets everything: from then on there is
/// no way back.
struct UndoStack {
    private var steps: [(name: String, undo: () throws -> Void)] = []

    mutating func push(_ name: String, _ undo: @escaping () throws -> Void) { steps.append((name, undo)) }

    /// Undoes all steps; one that fails does not keep the others from being undone. Returns what failed.
    mutating func rollBack() -> [String] {
        var problems: [String] = []
        while let step = steps.popLast() {
            do { try step.undo() } catch { problems.append("\(step.name): \(error)") }
        }
        return problems
    }

    mutating func commit() { steps.removeAll() }
}
