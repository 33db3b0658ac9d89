import CKernel
import Glibc
import Kernel
import KernelCapture
import ProcessImage
import Testing

@testable import Capture

@Suite(.serialized) struct MemoryTests {
    private final class Sink {
        var bytes = 0
        var isRight = true
    }

    @Test func runsAreReadWithoutTheirZeroPages() throws {
        let service = try TestService()
        try service.cgroup.freeze()
        let start = UInt64(service.number("private"))
        var image = ServiceImage(unit: "test")
        var process = ProcessImage(
            pid: service.pid, parent: 1, group: 1, session: 1, executable: FileIdentity(path: "/x"),
            workingDirectory: "/", rootDirectory: "/", umask: 0)
        process.vmas = [VMAImage(start: start, end: start + 8 << 20, protection: 3, kind: .anonymous, flags: "")]
        image.processes = [process]
        let source = PageSource(image: image, sharedSources: [])
        let sink = Sink()
        let run = PageRun(owner: 0, isShared: false, address: start, length: 8 << 20)
        try source.read(run, omittingZeroPages: true) { part, bytes in
            sink.bytes += bytes.count
            // Every fourth page begins with "page".
            sink.isRight = sink.isRight && part.length == 4096 && part.address % 16384 == start % 16384
            sink.isRight = sink.isRight && bytes.prefix(4).elementsEqual("page".utf8)
        }
        #expect(sink.bytes == 2 << 20)
        #expect(sink.isRight)
        sink.bytes = 0
        try source.read(run, omittingZeroPages: false) { _, bytes in sink.bytes += bytes.count }
        #expect(sink.bytes == 8 << 20)
        try service.cgroup.thaw()
        try service.ask(until: "alive")
    }

    @Test func sharedObjectsAreFoundOnce() throws {
        let service = try TestService()
        let module = try CaptureModule.load()
        let inspector = ServiceInspector(
            unit: "test", cgroup: service.cgroup, virtualAddresses: [], carryPaths: [], module: module,
            digests: FileDigests())
        try service.cgroup.freeze()
        let snapshot = try inspector.snapshot()
        var shared = SharedObjects(snapshot)
        let probe = try #require(snapshot.descriptors.first { Int64($0.number) == service.number("memfd") })
        let index = try #require(try shared.index(device: probe.device, inode: probe.inode))
        #expect(shared.images[Int(index)].name == "cache" && shared.images[Int(index)].size == 409600)
        // MFD_ALLOW_SEALING and nothing sealed yet.
        #expect(shared.images[Int(index)].seals == 0)
        let start = UInt64(service.number("shared"))
        let mapping = try #require(
            snapshot.processes.first { $0.pid == service.pid }?.mappings.first { $0.start <= start && start < $0.end })
        let anonymous = try shared.index(device: mapping.device, inode: mapping.inode)
        #expect(anonymous != nil && anonymous != index)
        // The child has it as well.
        let other = try #require(snapshot.processes.first { $0.pid != service.pid })
        #expect(other.mappings.contains { $0.inode == mapping.inode && $0.device == mapping.device })
        var image = ServiceImage(unit: "test")
        image.sharedMemory = shared.images
        let source = PageSource(image: image, sharedSources: shared.sources)
        let runs = try source.runs()
        #expect(runs.contains { $0.owner == index && $0.address == 4096 * 50 && $0.length == 4096 })
        let sink = Sink()
        for run in runs where run.owner == index {
            try source.read(run, omittingZeroPages: true) { _, bytes in
                sink.bytes += bytes.count
                sink.isRight = bytes.prefix(4).elementsEqual("data".utf8)
            }
        }
        #expect(sink.bytes == 4096 && sink.isRight)
    }
}
