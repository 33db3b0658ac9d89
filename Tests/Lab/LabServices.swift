import Glibc
import Kernel

/// How a service gets into a lab, moves through it, and is asked for its state there.
extension Lab {
    /// Where `compile` puts programs in each host.
    public static let programDirectory = "/usr/local/lib/mobility-test"

    /// Compiles `Tests/Programs/NAME.c` and puts the program into every host.
    ///
    /// - Returns: its path inside the hosts.
    @discardableResult
    public func compile(_ name: String) throws -> String {
        let local = try clientProgram(name)
        let content = try FileDescriptor.open(local, O_RDONLY).readToEnd()
        let path = "\(Self.programDirectory)/\(name)"
        for host in members where host.hasSystemd { try host.write(path, content, mode: 0o755) }
        return path
    }

    /// Compiles `Tests/Programs/NAME.c` for the clients, which see the machine's files.
    ///
    /// - Returns: its path on the machine; it goes with the lab.
    public func clientProgram(_ name: String) throws -> String {
        let directory = LabPaths(name: self.name).directory + "/programs"
        let path = "\(directory)/\(name)"
        guard !Files.exists(path) else { return path }
        try Files.makeDirectories(directory)
        try Subprocess.run([
            "/usr/bin/cc", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", path,
            "\(Product.repository)/Tests/Programs/\(name).c",
        ])
        return path
    }

    /// Gives a client a long and lossy cable; it lasts as long as the program that is returned.
    ///
    /// - Parameter delay: milliseconds there and back. `loss`: of a thousand frames, each way.
    public func degradeCable(of client: String, delay: Int, loss: Int) throws -> LabProcess {
        let program = try clientProgram("wire")
        let paths = LabPaths(name: name)
        try Subprocess.run([
            "/usr/bin/nsenter", "--net=\(paths.switchNetwork)", program, LabNetwork.port(client),
        ])
        let wire = try self[client].spawn(program, "\(delay)", "\(loss)")
        try waitUntil("the cable") {
            guard wire.isRunning else { throw LabError("the cable broke: \(wire.errorOutput)") }
            return wire.output.contains("ready")
        }
        return wire
    }

    /// Writes a unit file on every host and has systemd read it.
    public func installService(_ unit: String, _ text: String) throws {
        try writeOnHosts("/etc/systemd/system/\(unit)", text)
    }

    /// Gives a unit its virtual addresses on every host, by a drop-in.
    public func annotate(unit: String, addresses: String...) throws { try annotate(unit: unit, addresses: addresses) }

    /// Gives a unit its virtual addresses on every host, by a drop-in.
    public func annotate(unit: String, addresses: [String]) throws {
        let lines = addresses.map { "VirtualAddress=\($0)/\($0.contains(":") ? 64 : 24)\n" }
        try writeOnHosts("/etc/systemd/system/\(unit).d/mobility.conf", "[X-Mobility]\n" + lines.joined())
    }

    /// Gives a unit its virtual address on every host, by a drop-in.
    public func annotate(unit: String, address: String) throws { try annotate(unit: unit, addresses: address) }

    private func writeOnHosts(_ path: String, _ text: String) throws {
        for host in members where host.hasSystemd {
            try host.write(path, text)
            try host.run("systemctl", "daemon-reload")
        }
    }

    /// Moves a unit by `mobilityctl migrate`; when that fails, throws with what both daemons wrote.
    ///
    /// - Returns: what mobilityctl printed.
    @discardableResult
    public func migrate(
        _ unit: String, from source: String, to destination: String, timeout: Duration = .seconds(60)
    ) throws -> String {
        let hosts = try [self[source], self[destination]]
        do {
            return try hosts[0].run("mobilityctl", "migrate", unit, destination, timeout: timeout).output
        } catch {
            let logs = try hosts.map { "\n\($0.name):\n" + (try $0.journal("mobilityd", lines: 40)) }
            throw LabError("\(unit) did not move \(source)→\(destination): \(error)\(logs.joined())")
        }
    }
}

extension LabHost {
    /// One property of a unit as `systemctl show` tells it.
    public func property(_ name: String, of unit: String) throws -> String {
        try run("systemctl", "show", "--value", "-p", name, unit).trimmed
    }

    /// Starts a unit; when that fails, throws with its journal.
    public func start(_ unit: String) throws {
        do {
            try run("systemctl", "start", unit)
        } catch {
            throw LabError("\(error)\n\(try journal(unit))")
        }
    }

    /// The messages of a unit in this host's journal, oldest first.
    public func journal(_ unit: String, lines: Int = 200) throws -> String {
        try run("journalctl", "--sync", allowFailure: true)
        return try run("journalctl", "-u", unit, "--no-pager", "-o", "cat", "-n", "\(lines)", allowFailure: true).output
    }
}
