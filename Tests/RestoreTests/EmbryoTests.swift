import CKernel
import Glibc
import Kernel
import Resources
import Testing

@testable import Restore

/// Numbers that no process has, far from those the kernel hands out next.
enum FreePids {
    static func take(_ count: Int) -> [Int32] {
        var found: [Int32] = []
        var candidate = Int32.random(in: 20000..<30000)
        while found.count < count {
            candidate += 1
            if kill(candidate, 0) != 0 && !Files.exists("/proc/\(candidate)") { found.append(candidate) }
        }
        return found
    }
}

struct Stat {
    var parent: Int32, group: Int32, session: Int32
    init(_ pid: Int32) throws {
        let text = try Files.readText("/proc/\(pid)/stat")
        let words = text[text.lastIndex(of: ")")!...].split(separator: " ").dropFirst()
        let fields = Array(words)
        parent = Int32(fields[1])!
        group = Int32(fields[2])!
        session = Int32(fields[3])!
    }
}

@Suite(.serialized) struct EmbryoTests {
    /// A daemon that is killed in that moment must not live on in the descriptors of what it has just made.
    @Test func `A new process lets go of the daemon's descriptors before it is told anything`() throws {
        let (pid, control) = (FreePids.take(1)[0], Int32(900))
        let embryo = try EmbryoBirth.clone(
            pid, in: try EmbryoRegion(slots: 4, avoiding: []), adoption: .ourselves, cgroup: nil,
            acts: EmbryoBirth.firstActs(control: control), control: control)
        defer {
            embryo.kill()
            waitpid(pid, nil, 0)
        }
        let deadline = Clock.monotonic + 5_000_000_000
        var left: [String] = []
        repeat {
            left = try Files.list("/proc/\(pid)/fd")
        } while left != ["\(control)"] && Clock.monotonic < deadline
        #expect(left == ["\(control)"])
    }

    @Test func treeHasItsNumbersAndShape() throws {
        let p = FreePids.take(9)
        // A leader with two workers, one of which keeps the older session; an orphaned session with a grouped pair.
        let sketch = TreeSketch(processes: [
            .init(pid: p[0], parent: 1, group: p[0], session: p[0]),
            .init(pid: p[1], parent: p[0], group: p[0], session: p[0]),
            .init(pid: p[2], parent: p[1], group: p[2], session: p[0]),
            .init(pid: p[3], parent: 1, group: p[8], session: p[7]),
            .init(pid: p[4], parent: p[3], group: p[4], session: p[4]),
            .init(pid: p[5], parent: p[4], group: p[8], session: p[7]),
            .init(pid: p[6], parent: 1, group: p[0], session: p[0]),
        ])
        let tree = try EmbryoTree.build(sketch, at: TreePlace(adoption: .ourselves))
        defer { tree.abandon() }
        for process in sketch.processes {
            let stat = try Stat(process.pid)
            #expect(stat.parent == (process.parent == 1 ? getpid() : process.parent), "parent of \(process.pid)")
            #expect(stat.group == process.group)
            #expect(stat.session == process.session)
        }
        #expect(!Files.exists("/proc/\(p[7])") && !Files.exists("/proc/\(p[8])"))
        tree.abandon()
        // A grandchild's remains are for whoever adopts orphans here.
        for process in sketch.processes {
            let stat = try? Files.readText("/proc/\(process.pid)/stat")
            #expect(stat == nil || stat!.contains(") Z "))
        }
    }

    @Test func takenNumberIsNamed() throws {
        let sketch = TreeSketch(processes: [.init(pid: getpid(), parent: 1, group: getpid(), session: getpid())])
        do {
            _ = try EmbryoTree.build(sketch, at: TreePlace(adoption: .ourselves))
            Issue.record("built")
        } catch RestoreError.numberTaken(let pid) {
            #expect(pid == getpid())
        }
    }

    @Test func memoryOfTheDaemonIsGone() throws {
        let pid = FreePids.take(1)[0]
        var key = (0..<32).map { _ in UInt8.random(in: 1...255) }
        let heap = UnsafeMutablePointer<UInt8>.allocate(capacity: 1 << 20)
        defer { heap.deallocate() }
        for index in 0..<32 { heap[4096 + index] = key[index] }
        let tree = try EmbryoTree.build(
            TreeSketch(processes: [.init(pid: pid, parent: 1, group: pid, session: pid)]),
            at: TreePlace(adoption: .ourselves))
        defer { tree.abandon() }
        let names = try Files.readText("/proc/\(pid)/maps").split(separator: "\n").map(String.init)
        #expect(names.allSatisfy { $0.contains("[v") || $0.contains("/dev/zero") }, "\(names)")
        #expect(names.contains { $0.contains("[vdso]") })
        #expect(try Files.list("/proc/\(pid)/fd").count == 1)
        let memory = try FileDescriptor.open("/proc/\(pid)/mem", O_RDONLY)
        var found = 0
        for line in names where !line.contains("[vv") && !line.contains("[vsyscall") {
            let ends = line.split(separator: " ")[0].split(separator: "-").map { UInt64($0, radix: 16)! }
            var at = ends[0]
            while at < ends[1] {
                let bytes = (try? memory.read(upTo: 1 << 20, at: Int64(at))) ?? []
                if bytes.isEmpty { break }
                for start in bytes.indices where bytes[start] == key[0] && bytes[start...].starts(with: key) {
                    found += 1
                }
                at += UInt64(bytes.count)
            }
        }
        #expect(found == 0)
        key[0] = 0
    }

    @Test func killedEmbryoIsAnErrorAtOnce() throws {
        let pid = FreePids.take(1)[0]
        let tree = try EmbryoTree.build(
            TreeSketch(processes: [.init(pid: pid, parent: 1, group: pid, session: pid)]),
            at: TreePlace(adoption: .ourselves))
        defer { tree.abandon() }
        let embryo = try #require(tree.embryos[pid])
        #expect(try embryo.call(Int32(SYS_getpid), on: "").value == Int(pid))
        kill(pid, SIGKILL)
        let start = Clock.monotonic
        #expect(throws: KernelError.self) { try embryo.call(Int32(SYS_getpid), on: "") }
        #expect(Clock.monotonic - start < 100_000_000)
    }

    @Test func descriptorsGoBothWays() throws {
        let pid = FreePids.take(1)[0]
        let tree = try EmbryoTree.build(
            TreeSketch(processes: [.init(pid: pid, parent: 1, group: pid, session: pid)]),
            at: TreePlace(adoption: .ourselves))
        defer { tree.abandon() }
        let embryo = try #require(tree.embryos[pid])
        let file = try FileDescriptor.open("/etc/passwd", O_RDONLY)
        let number = try embryo.give(file, minimum: 40)
        #expect(number == 40)
        let text = try embryo.call(Int32(SYS_read), .int(number), .output(64), .int(64), on: "passwd")
        #expect(String(decoding: text.outputs[0], as: UTF8.self).contains("root"))
        let back = try embryo.take(number)
        #expect(try back.read(upTo: 4096).isEmpty == false)
        let batch = (0..<900).map { _ in EmbryoCall(Int32(SYS_getppid), [], on: "") }
        let start = Clock.monotonic
        #expect(try embryo.run(batch).allSatisfy { $0.value == Int(getpid()) })
        print("900 calls in \((Clock.monotonic - start) / 1000) µs")
    }
}
