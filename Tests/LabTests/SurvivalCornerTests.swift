import Glibc
import Lab
import Testing

/// What is set once and seldom looked at: each is after a move what it was, as the service itself finds it.
@Suite(.serialized, .survivalLab("corners"))
struct SurvivalCornerTests {
    /// Moves a unit there and back; the service answers `OK` before, and after each move twice.
    private func moveThereAndBack(
        _ unit: String, _ address: String, _ service: String, last: String? = nil, in lab: Lab
    ) throws {
        try lab.installService(unit, service)
        try lab.annotate(unit: unit, address: address)
        try lab["a"].start(unit)
        let original = try MasterProcess(of: unit, on: lab["a"])
        let client = try Asker(lab, address, port: 7000)
        for time in ["first", "second"] {
            let answer = try client.ask("check", timeout: .seconds(20))
            #expect(answer == "OK", "before any move, the \(time) time")
        }
        for (source, destination) in [("a", "b"), ("b", "a")] {
            try lab.migrate(unit, from: source, to: destination)
            for time in ["first", "second"] {
                let answer = try client.ask("check", timeout: .seconds(20))
                #expect(answer == "OK", "after \(source)→\(destination), the \(time) time")
            }
            try expectArrived(unit, original, lab[destination])
        }
        if let last {
            let answer = try client.ask(last, timeout: .seconds(20))
            #expect(answer == "OK", "\(last)")
        }
        client.close()
        try lab["a"].run("systemctl", "stop", unit)
    }

    /// A thread frozen inside a restartable sequence comes out at its abort handler, and stays registered.
    @Test(arguments: [("rseq-libc", "10.10.10.65", ""), ("rseq-own", "10.10.10.66", "own")])
    func `Restartable sequences are aborted by a move and stay registered`(
        name: String, address: String, argument: String
    ) throws {
        guard let lab = SurvivalLab.lab() else { return }
        let program = try lab.compile("rseq")
        let tunable = argument.isEmpty ? "" : "Environment=GLIBC_TUNABLES=glibc.pthread.rseq=0"
        try moveThereAndBack(
            "\(name).service", address,
            "[Service]\nExecStart=\(program) \(address) 7000 \(argument)\nNice=5\n\(tunable)\n", last: "finish", in: lab)
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

    /// Registrations of threads, signals that wait, settings of the process: as root, and as a user with capabilities.
    @Test(
        arguments: [
            ("corners", "10.10.10.67", "SecureBits=noroot\n"),
            (
                "corners-user", "10.10.10.68",
                "User=www-data\nAmbientCapabilities=CAP_NET_BIND_SERVICE CAP_SYS_NICE\nNoNewPrivileges=yes\nNice=3\n"
            ),
        ])
    func `What threads and processes have set is in force after two moves`(
        name: String, address: String, extra: String
    ) throws {
        guard let lab = SurvivalLab.lab() else { return }
        let program = try lab.compile("corners")
        try moveThereAndBack(
            "\(name).service", address, "[Service]\nExecStart=\(program) \(address) 7000\n\(Self.settings)\n\(extra)",
            last: "finish", in: lab)
    }

    @Test func `Mappings keep content, rights, advice, guards and holes through two moves`() throws {
        guard let lab = SurvivalLab.lab() else { return }
        let (program, data) = (try lab.compile("maps"), "\(Lab.programDirectory)/mapped")
        for host in try [lab["a"], lab["b"]] {
            try host.write(data, String(repeating: "what stands in the mapped file\n", count: 700))
        }
        let address = "10.10.10.69"
        try moveThereAndBack(
            "maps.service", address, "[Service]\nLimitMEMLOCK=infinity\nExecStart=\(program) \(address) 7000 \(data)\n",
            in: lab)
    }
}
