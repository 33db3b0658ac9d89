import Clocks
import Glibc
import Kernel
import KernelCapture
import ProcessImage
import Testing

@testable import Capture

@Suite(.serialized) struct ThreadTests {
    @Test func kernelTellsWhatTheServiceKnows() throws {
        let service = try TestService()
        let module = try CaptureModule.load()
        try service.cgroup.freeze()
        let began = Clock.monotonic
        let tasks = try module.tasks(of: service.cgroup)
        let middle = Clock.monotonic
        let files = try module.files(pids: tasks.map(\.process.pid))
        let ended = Clock.monotonic
        let threadCount = tasks.reduce(0) { $0 + $1.threads.count }
        print(
            "BPF pass: \(threadCount) threads \((middle - began) / 1000) µs,",
            "\(files.count) files \((ended - middle) / 1000) µs"
        )
        #expect(tasks.count == 2)
        let task = try #require(tasks.first { $0.process.pid == service.pid })
        let leader = try #require(task.threads.first)
        #expect(task.threads.count == 6)
        #expect(leader.tid == service.pid && leader.tgid == service.pid && leader.parent == getpid())
        #expect(leader.group == service.pid && Int64(leader.session) == service.number("sid"))
        #expect(leader.name == "mobile-service")
        #expect(leader.umask == 0o027)
        #expect(leader.timerSlack == 123456)
        #expect(leader.alternateStack == UInt64(service.number("alternateStack")) && leader.alternateStackSize == 65536)
        #expect(leader.credentials.noNewPrivileges && leader.credentials.supplementaryGroups == [7, 12, 100])
        #expect(leader.credentials.permitted == leader.credentials.effective && leader.credentials.permitted != 0)
        #expect(leader.blockedSignals == 1 << 39 | 1)
        #expect(leader.pendingSignals.count == 1 && leader.pendingSignals[0].content[0] == 1)
        #expect(leader.registers.count == 27 && leader.registers[21] != 0)
        // read(2) on standard input: -ERESTARTSYS.
        #expect(leader.registers[15] == 0 && Int64(bitPattern: leader.registers[10]) == -512)
        #expect(leader.rseqAddress != 0 && leader.rseqSignature == 0x53053053 && leader.robustList != 0)
        checkProcess(task.process, service)
        try service.cgroup.thaw()
        try service.ask(until: "alive")
        #expect(service.facts["alive"] == "hello!")
    }

    private func checkProcess(_ process: ProcessRecord, _ service: TestService) {
        #expect(process.isChildSubreaper && process.posixTimers.isEmpty)
        #expect(process.limits[7].soft == 200 && process.limits[7].hard == 300)
        #expect(process.pendingSignals.count == 1)
        let info = process.pendingSignals.first?.content ?? []
        #expect(info.count == 128 && info.first == 40 && info[24] == 0x34 && info[25] == 0x12)
        #expect(process.signalActions.count == 64)
        // SIGUSR1 handled, SIGUSR2 ignored.
        #expect(process.signalActions[9].handler > 1 && process.signalActions[11].handler == 1)
        let timers = process.intervalTimers
        #expect(timers[0].interval == 7_000_000 && (3_590_000_000...3_600_000_000).contains(timers[0].remaining))
        #expect(timers[1].interval == 9_000_000 && (1_790_000_000...1_800_010_000).contains(timers[1].remaining))
        #expect(timers[2].remaining == 0)
        let layout = process.layout
        #expect(layout.startCode == UInt64(service.number("stat.startcode")))
        #expect(layout.endCode == UInt64(service.number("stat.endcode")))
        #expect(layout.startStack == UInt64(service.number("stat.startstack")))
        #expect(layout.startData == UInt64(service.number("stat.start_data")))
        #expect(layout.endData == UInt64(service.number("stat.end_data")))
        #expect(layout.startBrk == UInt64(service.number("stat.start_brk")))
        #expect(layout.argStart == UInt64(service.number("stat.arg_start")))
        #expect(layout.argEnd == UInt64(service.number("stat.arg_end")))
        #expect(layout.envStart == UInt64(service.number("stat.env_start")))
        #expect(layout.envEnd == UInt64(service.number("stat.env_end")))
        #expect(layout.auxv.content == (try? Files.read("/proc/\(service.pid)/auxv")))
        let vdso = try? ProcMaps.read(pid: service.pid).first { $0.name == "[vdso]" }
        #expect(layout.vdso == vdso?.start)
    }

    @Test func filesAndSocketsAreTold() throws {
        let service = try TestService()
        let module = try CaptureModule.load()
        let files = try module.files(pids: [service.pid])
        func file(_ number: Int64) throws -> FileRecord { try #require(files.first { Int64($0.number) == number }) }
        let named = service.numbers("file")
        #expect(try file(named[0]).description == file(named[1]).description)
        #expect(
            try file(named[0]).position == Int64(
                try Files.readText("/proc/\(service.pid)/fdinfo/\(named[0])").split(separator: "\n")[0].dropFirst(5))
                ?? -1)
        let listener = service.numbers("listener")
        let socket = try #require(try file(listener[0]).socket)
        #expect(socket.family == 2 && socket.type == 1 && socket.protocolNumber == 6 && socket.state == 10)
        #expect(Int64(socket.localPort) == listener[1] && socket.acceptQueue == 1 && socket.halfOpen == 0)
        #expect(socket.localAddress == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 127, 0, 0, 1])
        let connection = service.numbers("connection")
        let client = try #require(try file(connection[0]).socket)
        #expect(
            client.state == 1 && Int64(client.remotePort) == listener[1] && Int64(client.localPort) == connection[2])
        #expect(client.timestampRecent != 0 && !client.isMPTCP && !client.hasUpperLayer)
        let pair = service.numbers("pair")
        let left = try #require(try file(pair[0]).socket)
        #expect(left.family == 1 && Int64(left.inode) == pair[2] && Int64(left.peerInode) == pair[3])
        #expect(left.peerName.isEmpty)
        let bound = try #require(try file(service.number("named")).socket)
        #expect(bound.unixName == [0] + [UInt8]("mobility-test-\(service.pid)".utf8))
    }

    @Test func interruptedCallsAreRepaired() throws {
        let service = try TestService()
        let module = try CaptureModule.load()
        try service.cgroup.freeze()
        let task = try #require(try module.tasks(pids: [service.pid]).first)
        let capture = ThreadCapture(clocks: try HostClocks())
        func image(_ name: String) throws -> ThreadImage {
            let thread = try #require(task.threads.first { Int64($0.tid) == service.number("tid.\(name)") })
            return try capture.image(of: thread)
        }
        func ax(_ image: ThreadImage) -> Int64 {
            image.registers.content.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: 80, as: Int64.self) }
        }
        let epoll = try image("epoll")
        #expect(ax(epoll) == -514 && epoll.restart == nil)
        for (name, kind) in [("nanosleep", RestartImage.Kind.nanosleep), ("poll", .poll), ("futex", .futex)] {
            let thread = try image(name)
            #expect(ax(thread) == -516)
            let restart = try #require(thread.restart)
            #expect(restart.kind == kind)
            let expected = service.number("limit.\(name)") - Clock.monotonic
            #expect(abs(restart.remaining - expected) < 200_000_000, "\(name) \(restart.remaining) \(expected)")
        }
        let ppoll = try image("ppoll")
        #expect(ppoll.blockedSignals == 1 << 14 | 1 << 39)
        let leader = try capture.image(of: task.threads[0])
        #expect(leader.nice == 3 && leader.registers.count == 216)
        #expect(leader.extendedState.count == ExtendedState.current.standardSize)
        try service.cgroup.thaw()
        try service.ask(until: "alive")
        // The plain freezer leaks EINTR to epoll_wait; everything else waits on.
        #expect(service.facts["threads"] == "5" || service.facts["threads"] == "6")
    }
}
