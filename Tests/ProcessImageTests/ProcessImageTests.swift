import ProcessImage
import Testing

@Suite struct WireTests {
    private func sample() -> ServiceImage {
        var image = ServiceImage(unit: "web.service")
        var process = ProcessImage(
            pid: 7, parent: 1, group: 7, session: 7, executable: FileIdentity(path: "/bin/x", size: .max),
            workingDirectory: "/", rootDirectory: "/", umask: 0o22)
        var thread = ThreadImage(tid: 7, name: "x")
        thread.registers = Bytes((0..<216).map { UInt8($0) })
        thread.restart = RestartImage(kind: .poll, remaining: -1, clock: 1)
        process.threads = [thread]
        var area = VMAImage(start: 0x1000, end: 0x2000, protection: 3, kind: .filePrivate, flags: "rd wr")
        area.file = FileIdentity(path: "/lib/ä")
        process.vmas = [area, VMAImage(start: 0, end: .max, protection: -1, kind: .vvar, flags: "")]
        image.processes = [process]
        image.clocks.monotonic = .min
        return image
    }

    @Test func imageSurvivesTheWire() throws {
        let bytes = try WireEncoder.encode(sample())
        let back = try WireDecoder.decode(ServiceImage.self, from: bytes)
        #expect(try WireEncoder.encode(back) == bytes)
        #expect(back.processes[0].threads[0].restart?.remaining == -1)
        #expect(back.processes[0].vmas[0].file?.path == "/lib/ä")
        #expect(back.processes[0].vmas[1].file == nil)
        #expect(back.clocks.monotonic == .min)
    }

    @Test func everyTruncationIsRefused() throws {
        let bytes = try WireEncoder.encode(sample())
        for length in 0..<bytes.count {
            #expect(throws: WireError.self) {
                try WireDecoder.decode(ServiceImage.self, from: Array(bytes.prefix(length)))
            }
        }
        #expect(throws: WireError.trailingBytes(1)) { try WireDecoder.decode(ServiceImage.self, from: bytes + [0]) }
    }

    @Test func damagedBytesNeverCrash() throws {
        let bytes = try WireEncoder.encode(sample())
        var random = SystemRandomNumberGenerator()
        for _ in 0..<3000 {
            var damaged = bytes
            for _ in 0..<Int.random(in: 1...4, using: &random) {
                damaged[Int.random(in: 0..<damaged.count, using: &random)] = UInt8.random(in: 0...255, using: &random)
            }
            _ = try? WireDecoder.decode(ServiceImage.self, from: damaged)
        }
    }

    @Test func aCountLargerThanTheMessageIsRefusedBeforeAllocating() {
        let huge: [UInt8] = [0xff, 0xff, 0xff, 0xff, 0x7f]
        #expect(throws: WireError.self) { try WireDecoder.decode([Int32].self, from: huge) }
        #expect(throws: WireError.self) { try WireDecoder.decode([UInt8].self, from: huge) }
    }
}
