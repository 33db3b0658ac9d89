import Kernel
import Testing

@testable import KernelCapture

@Suite struct DecoderTests {
    @Test func moduleLoadsHere() {
        #expect(CaptureModule.probe() == .yes)
    }

    @Test func malformedRecordsAreErrors() {
        #expect(throws: RecordError.self) { try RecordDecoder.tasks([1, 2, 3]) }
        #expect(throws: RecordError.self) { try RecordDecoder.tasks([UInt8](repeating: 0, count: 64)) }
        // A header that promises more than there is.
        var header: [UInt8] = [2, 0, 0x50, 0x4d, 1, 0, 0, 0, 255, 255, 0, 0, 1, 0, 0, 0]
        #expect(throws: RecordError.self) { try RecordDecoder.tasks(header) }
        // A thread record that ends too soon.
        header[8] = 16
        header[9] = 0
        #expect(throws: RecordError.self) { try RecordDecoder.tasks(header) }
        #expect(throws: RecordError.self) {
            try RecordDecoder.files([2, 0, 0x50, 0x4d, 4, 0, 0, 0, 16, 0, 0, 0, 1, 0, 0, 0])
        }
    }

    @Test func emptyStreamHasNoTasks() throws {
        #expect(try RecordDecoder.tasks([]).isEmpty)
    }
}
