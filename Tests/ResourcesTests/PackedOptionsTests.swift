import ProcessImage
import Testing

@testable import Resources

struct PackedOptionsTests {
    @Test func `options come back as they were, in order`() throws {
        var options = PackedOptions()
        options.append(6, 1, [1, 0, 0, 0])
        options.append(270, 12, [])
        options.append(1, 25, [101, 116, 104, 48])
        let copy = try WireDecoder.decode(PackedOptions.self, from: try WireEncoder.encode(options))
        var seen: [PackedOptions.Option] = []
        try copy.forEach { seen.append($0) }
        #expect(seen.map(\.level) == [6, 270, 1] && seen.map(\.name) == [1, 12, 25])
        #expect(copy.value(1, 25) == [101, 116, 104, 48] && copy.value(6, 1) == [1, 0, 0, 0])
        #expect(copy.value(6, 2) == nil)
    }

    @Test(arguments: [[6], [6, 0, 1, 0, 4], [6, 0, 1, 0, 4, 0, 1, 0, 0], [6, 0, 1, 0, 255, 255, 1]] as [[UInt8]])
    func `what is cut short is refused`(_ bytes: [UInt8]) throws {
        let wire = try WireEncoder.encode(Bytes(bytes))
        #expect(throws: WireError.self) { try WireDecoder.decode(PackedOptions.self, from: wire) }
    }
}
