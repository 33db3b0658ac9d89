import Glibc
import Kernel
import Testing

@testable import Lab

/// The Debian package on a host that has neither mobilityd nor Swift.
@Suite(.serialized)
struct PackageTests {
    /// Everything that has to lie in its place; paths that others than mobilityd read.
    private static let files = [
        "/usr/sbin/mobilityd", "/usr/bin/mobilityctl", "/usr/lib/mobilityd/mobility-arrive",
        "/usr/lib/systemd/system-generators/mobility-generator", "/usr/lib/systemd/system/mobilityd.service",
        "/usr/lib/systemd/system/mobility-pids.service", "/usr/share/dbus-1/system.d/org.mobilityd1.conf",
        "/usr/share/dbus-1/system-services/org.mobilityd1.service",
        "/usr/share/dbus-1/interfaces/org.mobilityd1.Manager.xml",
        "/usr/share/polkit-1/actions/org.mobilityd1.policy",
    ]

    private func buildPackage(into directory: String) throws -> String {
        let build = Product.repository + "/.build/release"
        guard Files.exists(build + "/mobilityd") else {
            throw LabError("no \(build)/mobilityd: the package holds the release build; `make build` makes it")
        }
        try Subprocess.run(
            ["/bin/sh", Product.repository + "/packaging/build-deb", build, directory], timeout: .seconds(120))
        let package = try #require(try Files.list(directory).first { $0.hasSuffix("_amd64.deb") })
        return directory + "/" + package
    }

    @Test func `The package installs on a bare host, starts the daemon, and leaves nothing when purged`() throws {
        if skippedWithoutRoot() { return }
        let scratch = "/tmp/mobilityd-package-\(getpid())"
        try Files.makeDirectories(scratch)
        defer { _ = try? Subprocess.run(["/bin/rm", "-rf", scratch]) }
        let package = try buildPackage(into: scratch)
        let lab = try Lab.up(hosts: ["a"], name: "package-\(getpid())", product: .none)
        defer { lab.down() }
        let host = try lab["a"]
        // The Swift toolchain of the machine is out of sight.
        try host.run("mount", "-t", "tmpfs", "tmpfs", "/opt")
        try host.write("/root/mobilityd.deb", try Files.read(package))
        try host.run("dpkg", "--install", "/root/mobilityd.deb", timeout: .seconds(120))

        for file in Self.files { try host.run("test", "-s", file) }
        #expect(try host.run("systemctl", "is-active", "mobilityd.service").trimmed == "active")
        #expect(try host.run("systemctl", "is-enabled", "mobilityd.service").trimmed == "enabled")
        #expect(try host.run("busctl", "status", "org.mobilityd1").output.contains("UnitName=mobilityd.service"))
        #expect(try host.run("mobilityctl", "nodes", "--no-legend").output.contains("self"))
        #expect(try host.run("mobilityctl", "--version").output.hasPrefix("mobilityctl "))
        #expect(try host.run("stat", "-c", "%a", "/etc/mobilityd/node.key").trimmed == "600")
        #expect(try host.failedUnits().filter { $0.hasPrefix("mobili") } == [])

        // The bus starts it on request.
        try host.run("systemctl", "stop", "mobilityd.service")
        #expect(try host.run("mobilityctl", "nodes", "--no-legend").output.contains("self"))

        try host.run("dpkg", "--purge", "mobilityd", timeout: .seconds(120))
        #expect(try !host.run("busctl", "status", "org.mobilityd1", allowFailure: true).succeeded)
        for file in Self.files + ["/etc/mobilityd", "/var/lib/mobilityd"] {
            #expect(try !host.run("test", "-e", file, allowFailure: true).succeeded, "\(file)")
        }
    }
}
