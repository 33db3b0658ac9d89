import Glibc
import Lab
import Testing

/// What is set once and seldom looked at: each is after a move what it was, as the service itself finds it.
@Suite(.serialized, .survivalLab("corners"))
struct SurvivalCornerTests {
    private struct Mover {
        let unit: String
        let client: Asker
        let original: MasterProcess
    }

    /// Starts units on a and moves all of them to b and back, side by side; each service answers `OK` before, and after
    /// each move twice, and to `last` at the end.
    private func moveThereAndBack(
        _ services: [(name: String, address: String, text: String)], last: String, in lab: Lab
    ) throws {
        let movers = try services.map { service throws -> Mover in
            let unit = service.name + ".service"
            try lab.installService(
                unit, "[Service]\n\(service.text)[X-Mobility]\nVirtualAddress=\(service.address)/24\n")
            try lab["a"].start(unit)
            do {
                // The client asks once.
                try waitUntil("\(unit) to listen") {
                    try lab["a"].run("ss", "-Htln", "src", "\(service.address):7000").output.contains(":7000")
                }
                return Mover(
                    unit: unit, client: try Asker(lab, service.address, port: 7000),
                    original: try MasterProcess(of: unit, on: lab["a"]))
            } catch {
                throw LabError("\(error)\n\(try lab["a"].journal(unit))")
            }
        }
        func ask(_ question: String, _ when: String) throws {
            for mover in movers {
                let answer = try mover.client.ask(question, timeout: .seconds(20))
                #expect(answer == "OK", "\(mover.unit) \(when)")
            }
        }
        for time in ["first", "second"] { try ask("check", "before any move, the \(time) time") }
        for (source, destination) in [("a", "b"), ("b", "a")] {
            let moves = try movers.map { try lab[source].spawn("mobilityctl", "migrate", $0.unit, destination) }
            for (mover, move) in zip(movers, moves) {
                guard try move.wait() == .exited(0) else {
                    let journal = try lab[source].journal("mobilityd", lines: 40)
                    throw LabError("\(mover.unit) did not move \(source)→\(destination): \(move.output)\(journal)")
                }
            }
            for time in ["first", "second"] { try ask("check", "after \(source)→\(destination), the \(time) time") }
            for mover in movers { try expectArrived(mover.unit, mover.original, lab[destination]) }
        }
        try ask(last, "at the end")
        for mover in movers {
            mover.client.close()
            try lab["a"].run("systemctl", "stop", mover.unit)
        }
    }

    /// A thread frozen inside a restartable sequence comes out at its abort handler, and stays registered.
    @Test func `Restartable sequences are aborted by a move and stay registered`() throws {
        guard let lab = SurvivalLab.lab() else { return }
        let program = try lab.compile("rseq")
        try moveThereAndBack(
            [
                ("rseq-libc", "10.10.10.65", "ExecStart=\(program) 10.10.10.65 7000\nNice=19\n"),
                (
                    "rseq-own", "10.10.10.66",
                    "ExecStart=\(program) 10.10.10.66 7000 own\nNice=19\n"
                        + "Environment=GLIBC_TUNABLES=glibc.pthread.rseq=0\n"
                ),
            ], last: "finish", in: lab)
    }

    static let settings = """
        TimerSlackNSec=70000
        LimitMEMLOCK=infinity
        LimitRTTIME=1s
        OOMScoreAdjust=-17
        CoredumpFilter=private-anonymous elf-headers
        IOSchedulingClass=best-effort
        IOSchedulingPriority=2
        SupplementaryGroups=games www-data
        SystemCallFilter=~sysinfo:EUCLEAN
        CapabilityBoundingSet=CAP_NET_BIND_SERVICE CAP_KILL CAP_SYS_NICE CAP_CHOWN
        """

    static let asUser = """
        User=www-data
        AmbientCapabilities=CAP_NET_BIND_SERVICE CAP_SYS_NICE
        NoNewPrivileges=yes
        Nice=3

        """

    /// Registrations of threads, signals that wait, settings of the process: as root, and as a user with capabilities.
    /// Content, rights, advice, guards and holes of mappings.
    @Test func `What threads and processes have set is in force after two moves, and mappings are what they were`()
        throws
    {
        guard let lab = SurvivalLab.lab() else { return }
        let (corners, maps) = (try lab.compile("corners"), try lab.compile("maps"))
        let data = "\(Lab.programDirectory)/mapped"
        for host in try [lab["a"], lab["b"]] {
            try host.write(data, String(repeating: "what stands in the mapped file\n", count: 700))
        }
        let settings = Self.settings + "\n"
        try moveThereAndBack(
            [
                (
                    "corners", "10.10.10.67",
                    "ExecStart=\(corners) 10.10.10.67 7000\n\(settings)SecureBits=noroot\n"
                ),
                ("corners-user", "10.10.10.68", "ExecStart=\(corners) 10.10.10.68 7000\n\(settings)\(Self.asUser)"),
                ("maps", "10.10.10.69", "ExecStart=\(maps) 10.10.10.69 7000 \(data)\nLimitMEMLOCK=infinity\n"),
            ], last: "finish", in: lab)
    }

    /// Argument of the program, and what the check says of it.
    private static let refused: [(kind: String, words: [String])] = [
        ("sealed", ["process %", "mapping ", "mseal"]),
        ("zombie", ["has ended and was not reaped by its parent %"]),
        ("stopped", ["is stopped by a signal", "SIGCONT"]),
        ("flooded", ["process %", "100 or more signals wait for the process"]),
        ("cloned", ["told to its parent by signal 28 instead of SIGCHLD", "fork(2)"]),
        ("orphan", ["asked for a signal at the end of thread", "PR_SET_PDEATHSIG"]),
        ("homeless", ["process %", "working directory /var/lib/homeless-", "has been removed"]),
        ("signing", ["process %", "signs its segments (TCP-MD5"]),
        ("semaphores", ["System V semaphore set", "cannot get its identifier"]),
        ("queue", ["System V message queue", "cannot get its identifier"]),
        ("mqueue", ["/awkward", "POSIX message queue"]),
        ("fifo", ["/run/awkward.fifo", "named FIFO"]),
        ("raw", ["raw sockets cannot be carried"]),
        ("in-flight", ["process %", "descriptors are in flight", "SCM_RIGHTS"]),
        ("filter", ["process %", "packet filter (SO_ATTACH_FILTER)"]),
        ("selector", ["process %", "SO_ATTACH_REUSEPORT_CBPF"]),
        ("secret", ["process %", "/secretmem", "memfd_secret(2)"]),
        ("huge", ["process %", "/memfd:huge", "MFD_HUGETLB"]),
        ("store", ["systemd keeps 1 descriptors", "FileDescriptorStoreMax=0"]),
        ("unshared-uts", ["process % UTS namespace", "is the service's own"]),
        ("unshared-mount", ["process % mount namespace", "is the service's own"]),
        ("timeless", ["RDTSC or CPUID end in a signal"]),
        // From here on the program cannot fork: the kernel refuses it to a process scheduled by deadlines.
        ("deadline", ["process %", "is scheduled by deadlines"]),
        ("confined", ["process %", "restricted itself by Landlock"]),
        ("key", ["process %", "1 keys in the keyring of thread or process"]),
        ("session-key", ["process %", "session keyring", "holds 2 keys"]),
        ("personality", ["process %", "personality", "execution domain"]),
    ]

    /// Name, lines of the unit, in which `%p` stands for the program, and what the check says of it.
    private static let refusedUnits: [(name: String, text: String, lines: [[String]])] = [
        (
            "oneshot", "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c '%p nothing &'",
            [["oneshot.service", "Type=oneshot", "use Type=simple"]]
        ),
        (
            "followed", "[Unit]\nOnSuccess=follower.service\n[Service]\nExecStart=%p nothing",
            [["followed.service", "OnSuccess=follower.service"]]
        ),
        (
            "own",
            "[Service]\nExecStart=/usr/bin/unshare --user --map-root-user --ipc --uts --cgroup --mount %p nothing",
            ["user", "IPC", "UTS", "cgroup", "mount"].map { ["process ", " \($0) namespace", "is the service's own"] }
        ),
        (
            "apart", "[Service]\nExecStart=/usr/bin/unshare --net %p nothing",
            [["network namespace", "is not the host's"]]
        ),
    ]

    private func startAwkward(_ unit: String, _ text: String, at address: String, in lab: Lab) throws {
        let a = try lab["a"]
        try lab.installService(unit, text + "\n[X-Mobility]\nVirtualAddress=\(address)/24\n")
        try a.run("rm", "-f", "/run/awkward.ready")
        try a.start(unit)
        try waitUntil("\(unit) to be ready") {
            try a.run("test", "-e", "/run/awkward.ready", allowFailure: true).succeeded
        }
    }

    @Test func `What cannot be carried of a unit is refused by name`() throws {
        guard let lab = SurvivalLab.lab() else { return }
        let (a, program) = (try lab["a"], try lab.compile("awkward"))
        for (index, (name, text, lines)) in Self.refusedUnits.enumerated() {
            let unit = name + ".service"
            try startAwkward(unit, text.replacing("%p", with: program), at: "10.10.10.\(71 + index)", in: lab)
            let check = try a.run("mobilityctl", "check", unit, "b", allowFailure: true)
            #expect(check.status == .exited(1), "\(unit): \(check.output)\(check.errorOutput)")
            let failed = check.output.split(separator: "\n").filter { $0.contains("✗") }
            for words in lines {
                #expect(
                    failed.contains { line in words.allSatisfy { line.contains($0) } },
                    "\(unit): no line with \(words) in:\n\(check.output)")
            }
            try a.run("systemctl", "stop", unit)
        }
    }

    /// The service does it when it sees that its move begins.
    @Test func `What a unit comes to after the check takes the move back`() throws {
        guard let lab = SurvivalLab.lab() else { return }
        let (unit, a) = ("late.service", try lab["a"])
        let program = try lab.compile("awkward")
        let start = "ExecStart=\(program) when /run/systemd/system/\(unit).d store unshared-uts"
        try startAwkward(
            unit, "[Service]\nNotifyAccess=all\nFileDescriptorStoreMax=4\n\(start)", at: "10.10.10.79", in: lab)
        let original = try MasterProcess(of: unit, on: a)
        let check = try a.run("mobilityctl", "check", unit, "b", allowFailure: true)
        #expect(check.succeeded, "\(check.output)\(check.errorOutput)")
        let move = try a.run("mobilityctl", "migrate", unit, "b", allowFailure: true)
        for words in ["rolled-back", "systemd keeps 1 descriptors", "UTS namespace"] {
            #expect((move.output + move.errorOutput).contains(words), "\(words) is not in \(move.output)")
        }
        try expectArrived(unit, original, a)
        try a.run("systemctl", "stop", unit)
    }

    @Test func `What cannot be carried of a process is refused by name`() throws {
        guard let lab = SurvivalLab.lab() else { return }
        let (unit, a) = ("awkward.service", try lab["a"])
        let program = try lab.compile("awkward")
        let kinds = Self.refused.map(\.kind)
        try lab.installService(
            unit,
            "[Service]\nNotifyAccess=all\nFileDescriptorStoreMax=4\n"
                + "ExecStart=\(program) \(kinds.joined(separator: " "))\n"
                + "[X-Mobility]\nVirtualAddress=10.10.10.70/24\n")
        try a.start(unit)
        try waitUntil("awkward to hold all") {
            try a.run("test", "-e", "/run/awkward.ready", allowFailure: true).succeeded
        }
        let original = try MasterProcess(of: unit, on: a)
        let check = try a.run("mobilityctl", "check", unit, "b", allowFailure: true)
        #expect(check.status == .exited(1), "\(check.output)\(check.errorOutput)")
        let failed = check.output.split(separator: "\n").filter { $0.contains("✗") }
        for (kind, words) in Self.refused {
            let wanted = words.map { $0.replacing("%", with: "\(original.pid)") }
            #expect(
                failed.contains { line in wanted.allSatisfy { line.contains($0) } },
                "\(kind): no line with \(wanted) in:\n\(failed.joined(separator: "\n"))")
        }
        let move = try a.run("mobilityctl", "migrate", unit, "b", allowFailure: true)
        #expect(move.status == .exited(1), "\(move.output)")
        try expectArrived(unit, original, a)
        try a.run("systemctl", "stop", unit)
    }
}
