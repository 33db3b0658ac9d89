import CKernel
import Glibc
import Kernel
import ProcessImage
import Resources
import Testing

@testable import Restore

/// What the counting program last wrote.
private struct Counters {
    var count, spins, naps, wakes, childCount, usr1, usr2Pending, errors, wrongNaps, child: Int
    init?(_ path: String) {
        guard let text = try? Files.readText(path) else { return nil }
        let n = text.split(whereSeparator: { $0 == " " || $0 == "\n" }).compactMap { Int($0) }
        guard n.count == 10 else { return nil }
        (count, spins, naps, wakes, childCount) = (n[0], n[1], n[2], n[3], n[4])
        (usr1, usr2Pending, errors, wrongNaps, child) = (n[5], n[6], n[7], n[8], n[9])
    }
}

private func eventually(_ seconds: Double, _ condition: () -> Bool) -> Bool {
    let end = Clock.monotonic + Int64(seconds * 1e9)
    while Clock.monotonic < end {
        if condition() { return true }
        usleep(5000)
    }
    return condition()
}

/// Ptrace belongs to one thread: runs `body` on one, and hands its error back.
private func onOneThread(_ body: @escaping @Sendable () throws -> Void) throws {
    let promise = try Promise<String>()
    try BlockingThread.start("restore-test") {
        do {
            try body()
            promise.fulfil("")
        } catch { promise.fulfil("\(error)") }
    }
    let failure = promise.wait(milliseconds: 60000) ?? "timed out"
    if !failure.isEmpty { Issue.record("\(failure)") }
}

@Suite(.serialized) struct RestoreTests {
    private func compile(_ directory: String) throws -> String {
        let source = #filePath.split(separator: "/").dropLast(2).reduce("") { $0 + "/" + $1 } + "/Programs/resuming.c"
        let program = directory + "/counter"
        let pid = try spawn(["/usr/bin/env", "clang", "-O1", "-pthread", "-o", program, source])
        var status: Int32 = 0
        waitpid(pid, &status, 0)
        #expect(status == 0)
        return program
    }

    private func spawn(_ arguments: [String]) throws -> Int32 {
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        posix_spawnattr_setflags(&attributes, 0x80 /* POSIX_SPAWN_SETSID */)
        var pid: Int32 = 0
        var words: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) } + [nil]
        let code = posix_spawn(&pid, arguments[0], nil, &attributes, &words, environ)
        words.forEach { free($0) }
        guard code == 0 else {
            throw KernelError(call: "posix_spawn", object: arguments[0], code: Errno(rawValue: code))
        }
        return pid
    }

    /// The counting program, its child, and what stands for the arriving unit's holder: the same sandbox, made anew.
    private struct Scene {
        let directory, program, sandbox: String
        let pid, child: Int32
        let holder: Int32?
        var status: String { directory + "/status" }
        var arguments: [String] {
            [program, status] + (sandbox.isEmpty ? [] : [sandbox.filter { $0 != "t" }])
        }
        var hasTimeNamespace: Bool { sandbox.contains("t") }
    }

    private func start(_ sandbox: String) throws -> Scene {
        let directory = "/tmp/restore-test-\(getpid())-\(sandbox)"
        try Files.makeDirectories(directory)
        chmod(directory, 0o777)
        let program = try compile(directory)
        let status = directory + "/status"
        let pid = try spawn([program, status] + (sandbox.isEmpty ? [] : [sandbox.filter { $0 != "t" }]))
        let holder = sandbox.isEmpty ? nil : try spawn([program, directory + "/holder", sandbox, "hold"])
        if holder != nil { #expect(eventually(5) { Files.exists(directory + "/holder") }) }
        #expect(eventually(10) { (Counters(status)?.count ?? 0) > 20 })
        kill(pid, SIGUSR1)
        #expect(eventually(5) { Counters(status)?.usr1 == 1 })
        kill(pid, SIGUSR2)
        #expect(eventually(5) { Counters(status)?.usr2Pending == 1 })
        let child = Int32(try #require(Counters(status)).child)
        return Scene(
            directory: directory, program: program, sandbox: sandbox, pid: pid, child: child, holder: holder)
    }

    @Test(arguments: ["", "s", "ts", "us"]) func serviceGoesOnWithItsNumbers(sandbox: String) throws {
        _ = ck_syscall(Int(SYS_prctl), Int(PR_SET_CHILD_SUBREAPER), 1, 0, 0, 0, 0)
        let scene = try start(sandbox)
        defer {
            if let holder = scene.holder {
                kill(holder, SIGKILL)
                waitpid(holder, nil, 0)
            }
        }
        try onOneThread {
            let capture = SmallCapture(base: scene.status)
            try capture.add(scene.pid)
            try capture.add(scene.child)
            var pending = [UInt8](repeating: 0, count: 128)
            pending[0] = UInt8(SIGUSR2)
            capture.image.processes[0].pendingSignals = [Bytes(pending)]
            let maps = try Files.readText("/proc/\(scene.pid)/maps").split(separator: "\n").count
            try end(scene, capture)
            try rebuild(scene, capture, maps: maps)
            try expectGoingOn(scene)
            try expectSameIdentity(scene)
            kill(scene.child, SIGKILL)
            kill(scene.pid, SIGKILL)
            waitpid(scene.pid, nil, 0)
        }
    }

    /// The source ends; from here on only the image has the service.
    private func end(_ scene: Scene, _ capture: SmallCapture) throws {
        for victim in [scene.pid, scene.child] {
            let handle = try Pidfd(pid: victim)
            try handle.signal(SIGKILL)
            _ = handle.hasEnded(milliseconds: 5000)
        }
        for process in capture.image.processes {
            for thread in process.threads.dropFirst() { waitpid(thread.tid, nil, 0x4000_0000) }
            waitpid(process.pid, nil, 0x4000_0000)
            while Files.exists("/proc/\(process.pid)") {
                waitpid(process.pid, nil, 0x4000_0000)
                usleep(1000)
            }
        }
        try? Files.remove(scene.status)
    }

    private func rebuild(_ scene: Scene, _ capture: SmallCapture, maps: Int) throws {
        let start = Clock.monotonic
        var place = TreePlace(adoption: .ourselves, holder: scene.holder)
        if let holder = scene.holder, scene.hasTimeNamespace {
            place.timeNamespace =
                try FileDescriptor.open("/proc/\(holder)/ns/time_for_children", O_RDONLY).release()
        }
        let tree = try EmbryoTree.build(capture.sketch, at: place)
        do {
            let restore = try ServiceRestore(tree: tree, image: capture.image)
            let built = Clock.monotonic
            try restore.mapMemory(capture.image)
            let mapped = Clock.monotonic
            for piece in capture.content {
                try piece.bytes.withUnsafeBytes { try restore.write(piece.run, $0) }
            }
            let written = Clock.monotonic
            try restore.restoreState()
            let stated = Clock.monotonic
            try restore.stop()
            #expect(try restore.verify() == [])
            #expect(try Files.readText("/proc/\(scene.pid)/maps").split(separator: "\n").count == maps)
            try restore.release()
            let end = Clock.monotonic
            print(
                "µs: build \((built - start) / 1000) map \((mapped - built) / 1000)",
                "write \((written - mapped) / 1000) state \((stated - written) / 1000)",
                "stop \((end - stated) / 1000)")
        } catch {
            tree.abandon()
            throw error
        }
    }

    private func expectGoingOn(_ scene: Scene) throws {
        let status = scene.status
        #expect(eventually(10) { Counters(status) != nil })
        let again = try #require(Counters(status))
        #expect(eventually(10) { (Counters(status)?.naps ?? 0) > again.naps + 1 })
        kill(scene.pid, SIGUSR1)
        #expect(eventually(5) { Counters(status)?.usr1 == 2 })
        let last = try #require(Counters(status))
        print(last)
        #expect(last.count > again.count && last.spins > again.spins && last.wakes > again.wakes)
        #expect(last.childCount > again.childCount)
        #expect(last.usr2Pending == 1)
        #expect(last.errors == 0)
        #expect(last.wrongNaps <= 1)
    }

    private func expectSameIdentity(_ scene: Scene) throws {
        let pid = scene.pid
        #expect(try Files.readLink("/proc/\(pid)/exe") == scene.program)
        #expect(try Files.readText("/proc/\(pid)/cmdline") == scene.arguments.map { $0 + "\0" }.joined())
        for kind in [NamespaceKind.mount, .uts, .ipc, .user] {
            #expect(try kind.identity(of: pid) == kind.identity(of: scene.holder ?? getpid()), "\(kind.name)")
        }
        if let holder = scene.holder, scene.hasTimeNamespace {
            let time = try Files.readLink("/proc/\(holder)/ns/time_for_children")
            #expect(try NamespaceKind.time.identity(of: pid) == time)
        }
        #expect(try Files.readText("/proc/\(pid)/comm") == "counter\n")
        let threads = try Files.list("/proc/\(pid)/task").map {
            try Files.readText("/proc/\(pid)/task/\($0)/comm").dropLast()
        }
        #expect(Set(threads) == ["counter", "spinner", "napper", "waiter"])
    }
}
