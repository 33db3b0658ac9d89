import Journal
import Logging
import Testing

@Suite struct JournalTests {
    @Test func metadataBecomesFields() {
        #expect(JournalLogHandler.fieldName("unit") == "MOBILITY_UNIT")
        #expect(JournalLogHandler.fieldName("peer-node") == "MOBILITY_PEER_NODE")
        #expect(JournalLogHandler.fieldName(String(repeating: "x", count: 90)).utf8.count == 64)
    }

    @Test func levelsArePriorities() {
        let priorities = Logger.Level.allCases.map(JournalLogHandler.priority(of:))
        #expect(priorities == [7, 7, 6, 5, 4, 3, 2])
    }
}
