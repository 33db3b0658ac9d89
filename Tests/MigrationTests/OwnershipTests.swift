import Foundation
import Kernel
import Testing

@testable import Migration

/// The records that say whose a unit is, and the one decision on a move: docs/protocol.md.
@Suite struct OwnershipTests {
    static let unit = "nginx.service"

    /// A journal in a directory of its own, which goes with it.
    private final class Scratch {
        let journal: OwnershipJournal
        let table = MoveTable()

        init() throws {
            journal = try OwnershipJournal(directory: "/tmp/mobilityd-ownership-\(UUID().uuidString)")
        }

        deinit { try? FileManager.default.removeItem(atPath: journal.directory) }
    }

    private func expect(_ value: Bool, _ wanted: Bool, sourceLocation: SourceLocation = #_sourceLocation) {
        #expect(value == wanted, sourceLocation: sourceLocation)
    }

    private func withJournal(_ body: (OwnershipJournal, MoveTable) throws -> Void) throws {
        let scratch = try Scratch()
        try withExtendedLifetime(scratch) { try body(scratch.journal, scratch.table) }
    }

    @Test(arguments: [
        OwnershipJournal.State.here, .departed(to: "node-b"), .inDoubt(move: "one", destination: "node-b"),
        .arrived(move: "one", source: "node-b"),
    ])
    func `What is recorded is read again`(state: OwnershipJournal.State) throws {
        try withJournal { journal, _ in
            try journal.record(state, for: Self.unit)
            #expect(journal.state(of: Self.unit) == state)
        }
    }

    @Test func `A unit without a record is here`() throws {
        try withJournal { journal, _ in #expect(journal.state(of: Self.unit) == .here) }
    }

    @Test(arguments: ["", "departed\n", "in-doubt one\n", "arrived one\n", "here and there\n", "\u{0}\u{0}\u{0}"])
    func `A record that says nothing sure is not taken for ours`(text: String) throws {
        try withJournal { journal, _ in
            try Files.writeAtomically("\(journal.directory)/unit-\(Self.unit)", text, mode: 0o600)
            guard case .unknown(let why) = journal.state(of: Self.unit) else {
                Issue.record("taken for \(journal.state(of: Self.unit))")
                return
            }
            #expect(why.contains("unit-\(Self.unit)"))
        }
    }

    @Test func `A record that cannot be read is not taken for ours`() throws {
        try withJournal { journal, table in
            // A directory opens and does not read: EISDIR, also for root.
            try Files.makeDirectories("\(journal.directory)/unit-\(Self.unit)")
            try Files.makeDirectories("\(journal.directory)/moves/one")
            guard case .unknown = journal.state(of: Self.unit) else {
                Issue.record("taken for \(journal.state(of: Self.unit))")
                return
            }
            #expect(throws: KernelError.self) { _ = try journal.wasCommitted(move: "one") }
            #expect(throws: KernelError.self) { _ = try table.answer("one", from: journal) }
        }
    }

    @Test func `Who is told that a move was not committed can rely on it`() throws {
        try withJournal { journal, table in
            expect(try table.answer("one", from: journal), false)
            expect(try table.commit("one", unit: Self.unit, in: journal), false)
            expect(try journal.wasCommitted(move: "one"), false)
        }
    }

    @Test func `A commit is answered as one, also by the next daemon, and cannot be abandoned`() throws {
        try withJournal { journal, table in
            expect(try table.commit("one", unit: Self.unit, in: journal), true)
            table.abandon("one")
            expect(try table.answer("one", from: journal), true)
            expect(try MoveTable().answer("one", from: journal), true)
        }
    }

    @Test func `An abandoned move is not committed`() throws {
        try withJournal { journal, table in
            table.abandon("one")
            expect(try table.commit("one", unit: Self.unit, in: journal), false)
            expect(try journal.wasCommitted(move: "one"), false)
        }
    }

    @Test func `A record that could not be written is no commit`() throws {
        try withJournal { journal, table in
            // Its temporary file cannot be renamed over a directory with something in it.
            try Files.makeDirectories("\(journal.directory)/moves/one/in-the-way")
            #expect(throws: KernelError.self) { _ = try table.commit("one", unit: Self.unit, in: journal) }
        }
    }

    @Test func `Question and commit at the same time agree`() async throws {
        for _ in 0..<200 {
            let scratch = try Scratch()
            let (journal, table) = (scratch.journal, scratch.table)
            async let committed = table.commit("one", unit: Self.unit, in: journal)
            async let answered = table.answer("one", from: journal)
            let both = try await (committed, answered)
            #expect(both.0 == both.1)
            expect(try journal.wasCommitted(move: "one"), both.0)
        }
    }
}
