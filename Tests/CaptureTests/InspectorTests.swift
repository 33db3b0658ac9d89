import CKernel
import Clocks
import Glibc
import Kernel
import KernelCapture
import ProcessImage
import Resources
import Testing

@testable import Capture

@Suite(.serialized) struct InspectorTests {
    private func inspector(_ service: TestService) throws -> ServiceInspector {
        ServiceInspector(
            unit: "test", cgroup: service.cgroup, virtualAddresses: [], carryPaths: [],
            module: try CaptureModule.load(),
            digests: FileDigests())
    }

    @Test func processesThemselvesCanMove() throws {
        let service = try TestService()
        let snapshot = try inspector(service).snapshot()
        #expect(snapshot.processes.map(\.pid) == [service.pid, Int32(service.number("child"))])
        // The test is the parent, which systemd would be.
        let refusals = ProcessChecks.check(snapshot).filter { $0.subject != "parent" }
        #expect(refusals == [])
    }

    @Test func aTracedThreadIsNamed() throws {
        let service = try TestService()
        let tid = Int32(service.number("tid.poll"))
        // PTRACE_SEIZE
        try systemCall("ptrace") { ck_syscall(Int(SYS_ptrace), 0x4206, Int(tid), 0, 0, 0, 0) }
        let refusals = ProcessChecks.check(try inspector(service).snapshot())
        // PTRACE_INTERRUPT, PTRACE_DETACH
        try systemCall("ptrace") { ck_syscall(Int(SYS_ptrace), 0x4207, Int(tid), 0, 0, 0, 0) }
        var status: Int32 = 0
        try systemCall("wait4") { waitpid(tid, &status, 0x4000_0000) }
        try systemCall("ptrace") { ck_syscall(Int(SYS_ptrace), 17, Int(tid), 0, 0, 0, 0) }
        #expect(refusals.contains { $0.subject == "thread \(tid)" && $0.why == "is traced by a debugger" })
    }

    @Test func aZombieIsNamed() throws {
        let service = try TestService()
        let child = Int32(service.number("child"))
        kill(child, SIGKILL)
        let inspector = try inspector(service)
        // Until the kernel has ended it.
        let pidfd = try Pidfd(pid: child)
        var event = pollfd(fd: pidfd.descriptor.raw, events: Int16(POLLIN), revents: 0)
        poll(&event, 1, 5000)
        let refusals = ProcessChecks.check(try inspector.snapshot())
        #expect(refusals.contains { $0.pid == child && $0.why.contains("was not reaped") }, "\(refusals)")
        // Its parent, which must not reap it, lives as long as this.
        withExtendedLifetime(service) {}
    }

    @Test func sketchTellsFilesAndListeners() throws {
        let service = try TestService()
        let sketch = try inspector(service).sketch()
        #expect(sketch.processes.count == 2 && sketch.processes[0].threads.count == 6)
        #expect(sketch.processes[0].executable.path.contains("python3"))
        #expect(sketch.processes[0].executable.digest.count == 32)
        #expect(sketch.listeners.contains { Int64($0.port) == service.numbers("listener")[1] })
        #expect(sketch.vdsoDigest.count == 32)
        #expect(sketch.files.contains { $0.path.hasSuffix("/service.py") && $0.digest.count == 32 })
        let wire = try WireEncoder.encode(sketch)
        #expect(try WireDecoder.decode(ServiceSketch.self, from: wire).files.count == sketch.files.count)
    }

    @Test func clocksContinueInATimeNamespace() throws {
        var image = try ServiceClocks.read(pid: getpid())
        image.monotonic += 5_000_000_000_000
        image.boottime += 7_000_000_000_000
        let namespace = try TimeNamespace.create(continuing: image, elapsedRealtime: 1_000_000_000)
        var ends: [Int32] = [0, 0]
        try systemCall("pipe") { pipe(&ends) }
        let output = FileDescriptor(owning: ends[0])
        // A child of one thread that enters it and says what it sees.
        let words = [
            "/usr/bin/python3", "-c",
            "import os,time,ctypes\n"
                + "assert ctypes.CDLL(None).setns(\(namespace.raw), 0x80) == 0\n"
                + "if os.fork() == 0:\n os.write(1, b'%d %d' % (time.clock_gettime_ns(1), time.clock_gettime_ns(7)))\n"
                + " os._exit(0)\nos.wait()",
        ]
        _ = try systemCall("fcntl") { ck_fcntl(namespace.raw, F_SETFD, 0) }
        let pid = try TestService.spawn(words, input: 0, output: ends[1])
        close(ends[1])
        let text = String(decoding: try output.readToEnd(), as: UTF8.self)
        var status: Int32 = 0
        waitpid(pid, &status, 0)
        let seen = text.split(separator: " ").compactMap { Int64($0) }
        try #require(seen.count == 2)
        let passed = Clock.realtime - image.realtime
        #expect(
            (0...(passed + 1_000_000_000)).contains(seen[0] - image.monotonic)
                && seen[0] > image.monotonic + 1_000_000_000)
        #expect(seen[1] > image.boottime + 1_000_000_000 && seen[1] <= image.boottime + passed + 1_000_000_000)
    }
}
