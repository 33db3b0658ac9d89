import Glibc
import Kernel
import KernelCapture
import ProcessImage
import Resources
import Testing

@testable import Capture

@Suite(.serialized) struct ServiceTests {
    private final class Content {
        var pages: [UInt64: [UInt8]] = [:]
        var bytes = 0
    }

    @Test func wholeServiceIsCapturedAndRunsOn() throws {
        let service = try TestService(acceptingAll: true)
        let inspector = ServiceInspector(
            unit: "test", cgroup: service.cgroup, virtualAddresses: [], carryPaths: [], allowsLoss: true,
            module: try CaptureModule.load(), digests: FileDigests())
        for refusal in try inspector.check() { print("refused: \(refusal)") }
        _ = try inspector.sketch()
        try service.cgroup.freeze()
        let began = Clock.monotonic
        let capture = try ServiceCapture(inspector)
        let looked = Clock.monotonic
        let captured = try capture.capture()
        let ended = Clock.monotonic
        let source = PageSource(image: captured.image, sharedSources: captured.sharedSources)
        let content = Content()
        try source.readAll { run, bytes in
            content.bytes += bytes.count
            if !run.isShared, run.owner == 0 { content.pages[run.address] = [UInt8](bytes.prefix(8)) }
        }
        let read = Clock.monotonic
        print(
            "snapshot \((looked - began) / 1000) µs, capture \((ended - looked) / 1000) µs, "
                + "\(content.bytes >> 10) KiB of memory \((read - ended) / 1000) µs")
        let image = captured.image
        #expect(image.processes.map(\.pid) == [service.pid, Int32(service.number("child"))])
        let process = image.processes[0]
        #expect(process.workingDirectory == service.facts["cwd"] && process.umask == 0o027)
        #expect(process.memoryDenyWriteExecute == 0 && process.dumpable == 1 && process.exitSignal == 17)
        // The child has all descriptors of its parent: each description is there once.
        #expect(image.processes[1].descriptors.map(\.description) == process.descriptors.map(\.description))
        let numbers = Set(process.descriptors.map(\.description))
        #expect(numbers.count == image.descriptions.count && numbers == Set(0..<Int32(image.descriptions.count)))
        let file = service.numbers("file")
        let same = process.descriptors.filter { file.contains(Int64($0.number)) }.map(\.description)
        #expect(same.count == 2 && same[0] == same[1])
        #expect(image.sharedMemory.contains { $0.kind == .memfd && $0.name == "cache" })
        #expect(image.sharedMemory.contains { $0.kind == .anonymous && $0.size == 1 << 20 })
        #expect(content.pages.values.contains { $0.starts(with: "page".utf8) })
        let wire = try WireEncoder.encode(image)
        let back = try WireDecoder.decode(ServiceImage.self, from: wire)
        #expect(try WireEncoder.encode(back) == wire)
        captured.holds.rollBack()
        try service.cgroup.thaw()
        try service.ask(until: "alive")
        #expect(service.facts["alive"] == "hello!")
    }
}
