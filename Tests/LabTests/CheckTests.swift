import Glibc
import Kernel
import Testing

@testable import Lab

/// What cannot be moved is named exactly, before anything is touched.
@Suite(.serialized)
struct CheckTests {
    private static let unit = "awkward.service"

    /// What the service holds, and what a check must say about it.
    private static let kinds: [(kind: String, words: [String])] = [
        ("inotify", ["process %", "fd ", "inotify", "cannot be carried"]),
        ("io_uring", ["process %", "io_uring"]),
        ("tun", ["process %", "fd ", "/dev/net/tun", "cannot be carried"]),
        ("pty", ["process %", "fd ", "/dev/pts/ptmx", "/dev/pts/0", "cannot be carried"]),
        ("connection", ["process %", "fd ", "10.10.10.2:", "10.10.10.100:7009", "will be lost", "allow-loss"]),
        ("multicast", ["process %", "fd ", "multicast", "239.1.2.3"]),
        ("timer", ["process %", "timer_create", "CLOCK_MONOTONIC"]),
        ("traced", ["process ", "thread ", "traced", "detach"]),
        ("unlinked", ["process %", "mapping ", "/var/lib/awkward-", "deleted", "restart the service"]),
    ]

    private func prepare(_ suffix: String) throws -> RollbackLab {
        let lab = try RollbackLab(suffix)
        try lab.compile("\(Product.repository)/Tests/Programs/awkward.c", options: ["-lutil"])
        for host in ["a", "b"] {
            try lab.install(program: "awkward", on: host)
            try lab.install(
                unit: Self.unit, on: host,
                """
                [Service]
                EnvironmentFile=/etc/awkward
                ExecStartPre=-/bin/rm /run/awkward.ready
                ExecStart=/usr/local/bin/awkward $KIND
                [X-Mobility]
                VirtualAddress=10.10.10.12/24

                """)
            try lab[host].write("/etc/awkward", "KIND=nothing\nPEER=10.10.10.100\nOWN=10.10.10.2\n")
        }
        return lab
    }

    /// Starts the service with that thing; nil when this kernel does not have it.
    private func hold(_ kind: String, _ lab: RollbackLab) throws -> Int? {
        let a = try lab["a"]
        try a.run("systemctl", "stop", Self.unit)
        try a.write("/etc/awkward", "KIND=\(kind)\nPEER=10.10.10.100\nOWN=10.10.10.2\n")
        let pid = try lab.start(Self.unit, on: "a")
        do {
            try waitUntil("awkward to hold its \(kind)", timeout: .seconds(5)) {
                guard try lab.property("ActiveState", of: Self.unit, on: "a") == "active" else {
                    throw LabError(try lab.log(of: Self.unit, on: "a", lines: 5))
                }
                return try a.run("test", "-e", "/run/awkward.ready", allowFailure: true).succeeded
            }
        } catch {
            guard kind == "io_uring" else { throw error }
            print("the io_uring row skipped, because this kernel has none: \(error)")
            return nil
        }
        return pid
    }

    @Test func `What cannot be carried is named with process, descriptor, reason and remedy`() throws {
        if skippedWithoutRoot() { return }
        let lab = try prepare("kinds")
        let a = try lab["a"]
        let listener = try lab["c"].spawn(
            "python3", "-c",
            "import socket\ns=socket.create_server(('10.10.10.100',7009))\nwhile True: k=s.accept()")
        defer { listener.kill() }
        let clean = try #require(try hold("nothing", lab))
        let good = try a.run("mobilityctl", "check", Self.unit, "b", allowFailure: true)
        #expect(good.succeeded, "\(good.output)\(good.errorOutput)")
        #expect(try lab.property("MainPID", of: Self.unit, on: "a") == "\(clean)")
        for (kind, words) in Self.kinds {
            guard let pid = try hold(kind, lab) else { continue }
            let switches = try lab.freezes(of: Self.unit, on: "a")
            let check = try a.run("mobilityctl", "check", Self.unit, "b", allowFailure: true)
            #expect(check.status == .exited(1), "\(kind): \(check.output)\(check.errorOutput)")
            let failed = check.output.split(separator: "\n").filter { $0.contains("✗") }.joined(separator: "\n")
            for word in words.map({ $0.replacing("%", with: "\(pid)") }) {
                #expect(failed.contains(word), "\(kind): `\(word)` is not in:\n\(check.output)")
            }
            let call = try a.run(
                "busctl", "call", "org.mobilityd1", "/org/mobilityd1", "org.mobilityd1.Manager", "CheckUnit", "ss",
                Self.unit, "b")
            #expect(call.output.hasPrefix("a(ssbs) ") && call.output.contains(" false "), "\(kind): \(call.output)")
            // A move is refused with the same words, and nothing is disturbed.
            let move = try lab.migrate(Self.unit, from: "a", to: "b")
            #expect(move.status == .exited(1), "\(kind): \(move.errorOutput)")
            #expect(try lab.property("MainPID", of: Self.unit, on: "a") == "\(pid)")
            #expect(try lab.property("ActiveState", of: Self.unit, on: "a") == "active")
            #expect(try lab.freezes(of: Self.unit, on: "a") == switches, "\(kind): it was frozen")
            #expect(try lab.traces(on: "b", address: "10.10.10.12", pid: pid).isEmpty)
        }
    }

    @Test func `Another file and a taken number at the destination are named`() throws {
        if skippedWithoutRoot() { return }
        let lab = try prepare("there")
        let (a, b) = try (lab["a"], lab["b"])
        let pid = try #require(try hold("nothing", lab))
        try b.run("sh", "-c", "echo >> /usr/local/bin/awkward")
        var check = try a.run("mobilityctl", "check", Self.unit, "b", allowFailure: true)
        #expect(check.status == .exited(1))
        for word in ["/usr/local/bin/awkward", "other content", "node b"] { #expect(check.output.contains(word)) }
        try lab.install(program: "awkward", on: "b")

        let occupant = try lab.occupy(pid, on: "b")
        check = try a.run("mobilityctl", "check", Self.unit, "b", allowFailure: true)
        #expect(check.status == .exited(1))
        for word in ["pid", "\(pid)", "taken on node b", "sleep"] {
            #expect(check.output.contains(word), "\(check.output)")
        }
        try lab.evict(pid, on: "b", occupant)
        let good = try a.run("mobilityctl", "check", Self.unit, "b", allowFailure: true)
        #expect(good.succeeded, "\(good.output)")
        #expect(try lab.property("MainPID", of: Self.unit, on: "a") == "\(pid)")

        // A node that nobody has enrolled, and one that does not answer.
        let unknown = try a.run("mobilityctl", "check", Self.unit, "x", allowFailure: true)
        #expect(!unknown.succeeded && (unknown.output + unknown.errorOutput).contains("node x is not enrolled"))
        try b.run("systemctl", "stop", "mobilityd")
        let silent = try a.run("mobilityctl", "check", Self.unit, "b", allowFailure: true)
        #expect(silent.status == .exited(1) && silent.output.contains("cannot be reached"), "\(silent.output)")
    }
}

extension RollbackLab {
    /// The events of the unit's cgroup; a freeze and a thaw would show in the state between, and in a child group.
    func freezes(of unit: String, on host: String) throws -> String {
        try lab[host].run(
            "sh", "-c",
            "cd /sys/fs/cgroup/system.slice/\(unit) && cat cgroup.events cgroup.freeze cgroup.procs && ls -d */ 2>&1",
            allowFailure: true
        ).output
    }
}
