import Testing

@testable import Peering

@Suite struct FrameTests {
    private let limits = FrameLimits(bulkTypes: [9])

    private func frame(_ type: UInt16, _ payload: [UInt8], flags: UInt16 = 0) -> [UInt8] {
        FrameHeader(type: type, flags: flags, length: UInt32(payload.count)).encoded() + payload
    }

    @Test func messagesSurviveAnyCut() throws {
        let sent = [
            Message(type: 1), Message(type: 2, flags: 0x8001, payload: [1, 2, 3]),
            Message(type: 9, payload: [UInt8](repeating: 7, count: 5000)),
        ]
        let stream = sent.flatMap { frame($0.type, $0.payload, flags: $0.flags) }
        for step in [1, 2, 15, 16, 17, 1000, stream.count] {
            var decoder = FrameDecoder(limits: limits)
            var got: [Message] = []
            for start in stride(from: 0, to: stream.count, by: step) {
                try decoder.decode(Array(stream[start..<min(start + step, stream.count)]), into: &got)
            }
            #expect(got == sent)
            #expect(decoder.isBetweenMessages)
        }
    }

    @Test func headerIsAsDocumented() {
        #expect(
            FrameHeader(type: 0x0102, flags: 0x0304, length: 0x05060708).encoded()
                == [0x4d, 0x4f, 0x42, 0x31, 1, 0, 2, 1, 4, 3, 0, 0, 8, 7, 6, 5])
    }

    @Test func everyViolationHasItsName() {
        func fault(_ at: Int, _ value: UInt8) -> FrameViolation? {
            var bytes = frame(1, [])
            bytes[at] = value
            var decoder = FrameDecoder(limits: limits)
            var got: [Message] = []
            do throws(FrameViolation) {
                try decoder.decode(bytes, into: &got)
                return nil
            } catch {
                #expect(throws: FrameViolation.poisoned) { try decoder.decode([0], into: &got) }
                return error
            }
        }
        #expect(fault(0, 0) == .magic(0x3142_4f00))
        #expect(fault(4, 2) == .version(2))
        #expect(fault(10, 1) == .reserved(1))
        #expect(fault(15, 1) == .length(type: 1, length: 1 << 24, limit: 1 << 20))
    }

    @Test func bulkTypesHaveTheirOwnLimit() throws {
        var decoder = FrameDecoder(limits: limits)
        var got: [Message] = []
        try decoder.decode(FrameHeader(type: 9, flags: 0, length: 64 << 20).encoded(), into: &got)
        #expect(decoder.reservedBytes >= 64 << 20)
        var strict = FrameDecoder(limits: limits)
        #expect(throws: FrameViolation.length(type: 9, length: 64 << 20 + 1, limit: 64 << 20)) {
            try strict.decode(FrameHeader(type: 9, flags: 0, length: 64 << 20 + 1).encoded(), into: &got)
        }
        #expect(strict.reservedBytes == 0)
    }

    /// Random bytes, and good streams with random damage and cuts: no crash, no reserve above the limit.
    @Test func damagedStreamsAreHarmless() throws {
        var random = SplitMix(state: 20_240_917)
        for round in 0..<3000 {
            let count = Int.random(in: 0...80, using: &random)
            var bytes = (0..<count).map { _ in UInt8.random(in: 0...255, using: &random) }
            if round % 2 == 0 {
                bytes = frame(UInt16.random(in: 0...12, using: &random), bytes) + frame(3, [1])
                for _ in 0..<Int.random(in: 0...2, using: &random) {
                    bytes[Int.random(in: 0..<bytes.count, using: &random)] = UInt8.random(in: 0...255, using: &random)
                }
                bytes.removeLast(Int.random(in: 0...bytes.count, using: &random))
            }
            var decoder = FrameDecoder(limits: limits)
            var got: [Message] = []
            for byte in bytes {
                do { try decoder.decode([byte], into: &got) } catch {}
                // An array's capacity is rounded up to what malloc gives.
                try #require(decoder.reservedBytes <= FrameLimits.bulk + 4096)
            }
            do { _ = try Hello.decode(bytes) } catch {}
        }
    }

    @Test func helloRoundTripAndCuts() throws {
        let hello = Hello.current(nodeName: "a", features: ["one", "zwei ß"])
        #expect(hello.hertz >= 100 && hello.hertz <= 1000)
        let bytes = hello.encoded()
        #expect(try Hello.decode(bytes) == hello)
        #expect(try Hello.decode(bytes + [1, 2]) == hello)
        for count in 0..<bytes.count {
            #expect(throws: PeeringError.self) { try Hello.decode(Array(bytes[..<count])) }
        }
    }
}

/// Steele, Lea and Flood's SplitMix64: the same numbers at every run.
struct SplitMix: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = state
        mixed = (mixed ^ mixed >> 30) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ mixed >> 27) &* 0x94d0_49bb_1331_11eb
        return mixed ^ mixed >> 31
    }
}
