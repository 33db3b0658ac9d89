import Glibc
import Kernel
import Testing

@testable import Lab

/// Prints why and says true when labs cannot be made here.
private func skipped(_ what: String = #function) -> Bool {
    guard geteuid() != 0 else { return false }
    print("\(what) skipped, because a lab needs root")
    return true
}

private func makeLab(_ suffix: String, hosts: [String] = ["a", "b"], clients: [String] = []) throws -> Lab {
    try Lab.up(hosts: hosts, clients: clients, name: "test-\(getpid())-\(suffix)", product: .none)
}

@Suite(.serialized)
struct LabTests {
    @Test func `Hosts have their own systemd, name, identity, clock and cgroup root`() throws {
        if skipped() { return }
        let lab = try makeLab("own", clients: ["c"])
        defer { lab.down() }
        var identities: Set<String> = []
        var uptimes: [Int] = []
        for host in try [lab["a"], lab["b"]] {
            #expect(try host.run("systemctl", "is-system-running").trimmed == "running")
            #expect(try host.run("hostname").trimmed == host.name)
            #expect(try host.run("cat", "/proc/1/comm").trimmed == "systemd")
            #expect(try host.run("stat", "-fc", "%T", "/sys/fs/cgroup").trimmed == "cgroup2fs")
            #expect(try host.run("cat", "/proc/1/cgroup").output.contains("0::/init.scope\n"))
            #expect(try host.run("busctl", "list", "--acquired").output.contains("org.freedesktop.systemd1"))
            #expect(try host.run("journalctl", "-b", "--no-pager", "-n", "1").succeeded)
            identities.insert(try host.run("cat", "/etc/machine-id").trimmed)
            let uptime = try host.run("cut", "-d.", "-f1", "/proc/uptime").trimmed
            uptimes.append(try #require(Int(uptime)))
        }
        #expect(identities.count == 2)
        #expect((995...1010).contains(uptimes[1] - uptimes[0]))
        #expect(try lab["c"].run("ip", "-br", "address", "show", "eth0").output.contains("10.10.10.100/24"))
    }

    @Test func `A cable keeps the order of what a bulk sender sends`() throws {
        if skipped() { return }
        let lab = try makeLab("order", hosts: ["a"], clients: ["c"])
        defer { lab.down() }
        let (host, client) = try (lab["a"], lab["c"])
        let server = try host.spawn(lab.compile("bulk"), "serve", host.address, "7000")
        defer { server.kill() }
        try waitUntil("the listener") { try host.run("ss", "-Hltn", "sport = :7000").output.contains("LISTEN") }
        let before = try client.counters()
        func sent(_ now: [String: Int], _ name: String) -> Int { (now[name] ?? 0) - (before[name] ?? 0) }
        let load = try client.spawn(lab.clientProgram("bulk"), "up", host.address, "7000")
        try waitUntil("500,000 segments", timeout: .seconds(30)) {
            try sent(client.counters(), "TcpExt.TCPOrigDataSent") > 500_000
        }
        try load.signal(SIGTERM)
        _ = try load.wait(timeout: .seconds(10))
        let after = try client.counters()
        #expect(sent(after, "TcpExt.TCPSACKReorder") == 0)
        #expect(sent(after, "Tcp.RetransSegs") == 0)
    }

    @Test func `A stock service starts by hand and a client reaches it`() throws {
        if skipped() { return }
        let lab = try makeLab("nginx", hosts: ["a"], clients: ["c"])
        defer { lab.down() }
        let (host, client) = try (lab["a"], lab["c"])
        #expect(try host.run("systemctl", "is-active", "nginx", allowFailure: true).trimmed == "inactive")
        try host.run("systemctl", "start", "nginx")
        try host.write("/var/www/html/lab.txt", "hello from \(host.name)\n")
        #expect(try host.readText("/var/www/html/lab.txt") == "hello from a\n")
        #expect(!Files.exists("/var/www/html/lab.txt"))

        let before = try client.counters()
        for address in [host.address, "[\(host.address6)]"] {
            let answer = try client.run("curl", "-gsS", "--max-time", "5", "http://\(address)/lab.txt")
            #expect(answer.output == "hello from a\n")
        }
        let after = try client.counters()
        #expect((after["Tcp.ActiveOpens"] ?? 0) - (before["Tcp.ActiveOpens"] ?? 0) == 2)
        #expect(after["Tcp.RetransSegs"] != nil && after["TcpExt.TCPTimeouts"] != nil)
        #expect(try host.run("cat", "/proc/sys/net/ipv4/tcp_syncookies").trimmed == "1")
    }

    @Test func `A pulled cable takes the carrier away, plugged in it comes back`() throws {
        if skipped() { return }
        let lab = try makeLab("cable", hosts: ["a"], clients: ["c"])
        defer { lab.down() }
        let client = try lab["c"]
        func reaches() throws -> Bool {
            try client.run(
                "bash", "-c", "exec 3<>/dev/tcp/10.10.10.2/80 && echo up", allowFailure: true, timeout: .seconds(5)
            ).succeeded
        }
        try lab["a"].run("systemctl", "start", "nginx")
        #expect(try reaches())
        try lab.link("a", up: false)
        #expect(try lab["a"].run("cat", "/sys/class/net/eth0/carrier").trimmed == "0")
        try lab.link("a", up: true)
        try waitUntil("way to a") { try reaches() }
    }

    @Test func `Commands pass on status, output and signals`() throws {
        if skipped() { return }
        let lab = try makeLab("run", hosts: ["a"], clients: ["c"])
        defer { lab.down() }
        for member in lab.members {
            #expect(
                try member.run("sh", "-c", "echo out; echo err >&2; exit 3", allowFailure: true).status == .exited(3))
            #expect(throws: LabError.self) { try member.run("false") }
            let sleeper = try member.spawn("sh", "-c", "trap 'echo caught; exit 5' TERM; echo ready; sleep 60 & wait")
            try waitUntil("its first line") { sleeper.output.contains("ready") }
            #expect(sleeper.isRunning)
            #expect(throws: LabError.self) { try sleeper.wait(timeout: .milliseconds(1)) }
            try sleeper.signal(SIGTERM)
            #expect(try sleeper.wait() == .exited(5))
            #expect(sleeper.output.contains("caught"))
        }
        let environment = try lab["a"].run("env").output
        #expect(environment.contains("PATH=") && !environment.contains("NOTIFY_SOCKET"))
    }

    @Test func `Down leaves nothing, and is idempotent`() throws {
        if skipped() { return }
        let lab = try makeLab("gone", clients: ["c"])
        // Other mounts of the machine may come and go meanwhile; the lab's carry its name.
        func mounts() throws -> Int {
            try Files.readText("/proc/self/mountinfo").split(separator: "\n").count { $0.contains(lab.name) }
        }
        #expect(try mounts() == 4)
        let pids = lab.members.compactMap(\.initPid)
        let straggler = try lab["c"].spawn("sleep", "600")
        #expect(pids.count == 2)
        lab.down()
        lab.down()
        for pid in pids { #expect(ProcessHandle.startTime(pid) == nil) }
        #expect(try straggler.wait(timeout: .seconds(5)) == .killed(signal: SIGKILL))
        #expect(try mounts() == 0)
        #expect(!Files.exists("/run/mobilityd-lab/\(lab.name)"))
        for mount in ControlGroups.mounts() { #expect(!Files.exists("\(mount)/mobilityd-lab/\(lab.name)")) }
    }

    @Test func `Labs live side by side, and one whose process has ended is removed by the next`() throws {
        if skipped() { return }
        let first = try makeLab("one", hosts: ["a"])
        defer { first.down() }
        #expect(throws: LabError.self) { try makeLab("one", hosts: ["a"]) }
        #expect(try first["a"].isUp)
        let child = try Subprocess.spawn(["/bin/true"], output: .null, errors: .null)
        try child.wait()
        // As if the process that made it had crashed: its pid names nobody any more.
        try Files.writeAtomically("/run/mobilityd-lab/\(first.name)/owner", "\(child.pid) 1\n")
        let second = try makeLab("two", hosts: ["a"])
        defer { second.down() }
        #expect(try !first["a"].isUp)
        #expect(!Files.exists("/run/mobilityd-lab/\(first.name)"))
        #expect(try second["a"].run("true").succeeded)
    }

    @Test func `Kernel counters are read by name`() {
        let text = "Tcp: RtoAlgorithm RetransSegs\nTcp: 1 7\nUdp: InDatagrams\nUdp: 4\nTcpExt: TCPTimeouts\nTcpExt: 2\n"
        let counters = LabHost.parseCounters(text)
        #expect(
            counters == ["Tcp.RtoAlgorithm": 1, "Tcp.RetransSegs": 7, "Udp.InDatagrams": 4, "TcpExt.TCPTimeouts": 2])
    }
}
