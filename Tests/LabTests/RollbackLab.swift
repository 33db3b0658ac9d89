import Glibc
import Kernel
import Testing

@testable import Lab

/// Prints why and says true when a lab with the product cannot be made here.
func skippedWithoutRoot(_ what: String = #function) -> Bool {
    guard geteuid() != 0 else { return false }
    print("\(what) skipped, because a lab needs root")
    return true
}

/// A lab with the release build of the product, a service that checks itself, and a client that is connected to it.
///
/// The service is `counter.service`: `Tests/Programs/counter.c` on 10.10.10.11:7000, the same files on every host.
final class RollbackLab {
    static let unit = "counter.service"
    static let address = "10.10.10.11"
    let lab: Lab
    /// What is made for this lab only: the compiled programs and the installed tree.
    private let scratch: String

    /// - Parameter megabytes: memory that the service fills on top of its own.
    init(_ suffix: String, hosts: [String] = ["a", "b"], megabytes: Int = 0) throws {
        scratch = "/tmp/mobilityd-rollback-\(getpid())-\(suffix)"
        try Files.makeDirectories(scratch)
        let build = Product.repository + "/.build/release"
        guard Files.exists(build + "/mobilityd") else {
            throw LabError("no \(build)/mobilityd: the hosts of a lab run the release build; `make build` makes it")
        }
        let tree = scratch + "/tree"
        try Subprocess.run(
            ["/usr/bin/make", "-s", "-C", Product.repository, "install", "BUILD=\(build)", "DESTDIR=\(tree)"])
        lab = try Lab.up(
            hosts: hosts, clients: ["c"], name: "rb-\(getpid())-\(suffix)", product: .tree(tree))
        for program in ["counter", "counter-client"] {
            try compile("\(Product.repository)/Tests/Programs/\(program).c")
        }
        let size = megabytes > 0 ? " \(megabytes)" : ""
        for host in hosts {
            try install(program: "counter", on: host)
            try install(
                unit: Self.unit, on: host,
                """
                [Service]
                ExecStart=/usr/local/bin/counter \(Self.address) 7000\(size)
                [X-Mobility]
                VirtualAddress=\(Self.address)/24

                """)
        }
    }

    deinit {
        lab.down()
        _ = try? Subprocess.run(["/bin/rm", "-rf", "--one-file-system", scratch])
    }

    subscript(name: String) -> LabHost { get throws { try lab[name] } }

    // MARK: - Services

    /// Compiles a program of the tests for the hosts of this lab.
    func compile(_ source: String, options: [String] = []) throws {
        let name = source.split(separator: "/").last.map { String($0.dropLast(2)) } ?? source
        // As the Makefile looks for it; commands of the lab get no PATH of the caller.
        let compilers = ["/opt/swift/usr/bin/clang", "/usr/bin/clang-16", "/usr/bin/clang", "/usr/bin/cc"]
        guard let compiler = compilers.first(where: { Files.exists($0) }) else {
            throw LabError("no C compiler for the tests' programs: none of \(compilers)")
        }
        try Subprocess.run(
            [compiler, "-O1", "-pthread", "-o", "\(scratch)/\(name)", source] + options)
    }

    /// Compiles a program that is given as text.
    func compile(_ name: String, text: String) throws {
        try Files.writeAtomically("\(scratch)/\(name).c", text)
        try compile("\(scratch)/\(name).c")
    }

    /// Puts a compiled program into /usr/local/bin of a host.
    func install(program: String, on host: String) throws {
        let file = try FileDescriptor.open("\(scratch)/\(program)", O_RDONLY)
        try lab[host].write("/usr/local/bin/\(program)", try file.readToEnd(), mode: 0o755)
    }

    /// Installs a unit file and has systemd and mobilityd read it.
    func install(unit: String, on host: String, _ text: String) throws {
        let member = try lab[host]
        try member.write("/etc/systemd/system/\(unit)", text)
        try member.run("systemctl", "daemon-reload")
        try member.run("systemctl", "reload", "mobilityd")
    }

    /// One property of a unit, `systemctl show`.
    func property(_ name: String, of unit: String = RollbackLab.unit, on host: String) throws -> String {
        try lab[host].run("systemctl", "show", "--value", "--property", name, unit).trimmed
    }

    /// Starts the service; returns its main pid.
    @discardableResult
    func start(_ unit: String = RollbackLab.unit, on host: String) throws -> Int {
        let result = try lab[host].run("systemctl", "start", unit, allowFailure: true)
        guard result.succeeded, let pid = Int(try property("MainPID", of: unit, on: host)), pid > 0 else {
            throw LabError("\(unit) does not start on \(host): \(result.errorOutput)\n\(try log(of: unit, on: host))")
        }
        return pid
    }

    /// The journal of a unit on a host.
    func log(of unit: String = "mobilityd", on host: String, lines: Int = 30) throws -> String {
        try lab[host].run("journalctl", "--no-pager", "-o", "cat", "-u", unit, "-n", "\(lines)").output
    }

    // MARK: - The client

    /// A client that talks to the service from now on.
    func connect() throws -> Talk {
        var talk: Talk?
        // A service that fills its memory first listens a little after systemd calls it started.
        try waitUntil("listener of the service", timeout: .seconds(20), interval: .milliseconds(50)) {
            let attempt = Talk(try lab["c"].spawn("\(scratch)/counter-client", Self.address, "7000"))
            try attempt.awaitProgress()
            talk = attempt
            return true
        }
        guard let talk else { throw LabError("no client") }
        return talk
    }

    /// A connection that lives as long as the test wants it to.
    struct Talk {
        let process: LabProcess

        init(_ process: LabProcess) { self.process = process }

        /// The last number that came back, from the client's lines of progress.
        var numbers: Int {
            process.output.split(separator: "\n").last.flatMap { line in
                Int(line.drop { !$0.isNumber }.prefix { $0.isNumber })
            } ?? 0
        }

        /// Waits until numbers go to and fro that had not been sent when this was called.
        func awaitProgress(timeout: Duration = .seconds(10)) throws {
            let before = numbers
            try waitUntil("number after \(before) at the client", timeout: timeout) {
                guard process.isRunning else { return true }
                return numbers > before + 64
            }
            guard process.isRunning else {
                throw LabError("the client has ended: \(process.errorOutput)\(process.output)")
            }
        }

        /// Ends the client; no reset, no end, no lost and no doubled number may have been seen.
        func finish() throws {
            try process.signal(SIGTERM)
            #expect(try process.wait(timeout: .seconds(10)) == .exited(0), "\(process.errorOutput)")
            #expect(process.output.contains("\"errors\":0"))
        }
    }

    // MARK: - Moves

    /// `mobilityctl migrate`, to its end.
    func migrate(_ unit: String = RollbackLab.unit, from source: String, to destination: String) throws -> CommandResult
    {
        try lab[source].run("mobilityctl", "migrate", unit, destination, allowFailure: true, timeout: .seconds(90))
    }

    /// A move that must succeed: the one after a roll-back.
    func expectMove(
        _ unit: String = RollbackLab.unit, from source: String, to destination: String, pid: Int,
        sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        let result = try migrate(unit, from: source, to: destination)
        let logs = result.succeeded ? "" : try "\(log(on: source))\n--- \(destination)\n\(log(on: destination))"
        #expect(result.succeeded, "\(result.errorOutput)\n\(logs)", sourceLocation: sourceLocation)
        #expect(try property("MainPID", of: unit, on: destination) == "\(pid)", sourceLocation: sourceLocation)
        #expect(try property("ActiveState", of: unit, on: destination) == "active", sourceLocation: sourceLocation)
    }

    /// What a move may have left on a host, one line each; empty on the host that never had the service.
    func traces(on host: String, address: String = RollbackLab.address, pid: Int) throws -> [String] {
        let script = """
            ls -d /run/systemd/system/*.d/zz-mobility-* 2>/dev/null
            find /sys/fs/cgroup -name moving
            ip -o address show | grep -F ' \(address)/'
            [ ! -e /proc/\(pid) ] || echo "process \(pid)"
            true
            """
        return try lab[host].run("sh", "-c", script).output.split(separator: "\n").map(String.init)
    }

    /// The service runs on the source as if nothing had been tried, and the destination has nothing of it.
    func expectUndisturbed(
        on source: String, not destination: String, pid: Int, talk: Talk? = nil, unit: String = RollbackLab.unit,
        sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        #expect(try property("ActiveState", of: unit, on: source) == "active", sourceLocation: sourceLocation)
        #expect(try property("MainPID", of: unit, on: source) == "\(pid)", sourceLocation: sourceLocation)
        var left: [String] = []
        do {
            try waitUntil("clean \(destination)", timeout: .seconds(15), interval: .milliseconds(100)) {
                left = try traces(on: destination, pid: pid)
                let state = try property("ActiveState", of: unit, on: destination)
                if state != "inactive" { left.append("unit is \(state)") }
                return left.isEmpty
            }
        } catch {
            let log = try log(on: destination)
            Issue.record("left on \(destination): \(left)\n\(log)", sourceLocation: sourceLocation)
        }
        let here = try traces(on: source, pid: pid)
        #expect(here.count == 2, "the address and the process, but: \(here)", sourceLocation: sourceLocation)
        try talk?.awaitProgress()
    }
}
