import CKernel
import Glibc
import Kernel

/// A host between its start and its readiness.
final class HostBoot {
    let member: LabMember
    let paths: LabPaths
    private let notifications: FileDescriptor
    /// unshare(1), which waits for PID 1.
    let launcher: LabProcess

    /// Starts systemd as PID 1 in fresh namespaces; returns at once.
    init(_ member: LabMember, paths: LabPaths, cgroup: String) throws {
        self.member = member
        self.paths = paths
        let directory = paths.member(member.name)
        try Files.makeDirectories(directory + "/layers")
        try Files.makeDirectories(cgroup + "/lab.exec")
        notifications = try Self.listen(directory + "/notify")
        launcher = try Subprocess.spawn(
            [
                "/bin/sh", "-c", HostScript.outer, "outer", cgroup, String(member.clockOffset),
                paths.network(member.name), HostScript.inner, "inner", directory, member.name, cgroup,
            ],
            output: .file(paths.console(member.name)), errors: .file(paths.console(member.name)), newSession: true)
    }

    /// Waits for systemd's READY=1, sd_notify(3), then until its start queue is empty; records PID 1.
    func finish(timeout: Duration) throws {
        let deadline = ContinuousClock().now + timeout
        while try !receive().contains("READY=1") {
            var entry = pollfd(fd: notifications.raw, events: Int16(POLLIN), revents: 0)
            let ready = poll(&entry, 1, 50)
            guard ready == 0 else { continue }
            guard launcher.isRunning else { throw failure("its PID 1 ended during boot") }
            guard ContinuousClock().now < deadline else { throw failure("systemd was not ready after \(timeout)") }
        }
        let text = try Files.readText(paths.member(member.name) + "/pid").trimmingWhitespace()
        guard let pid = Int32(text), let identity = ProcessIdentity(pid: pid) else {
            throw failure("its PID 1 (\(text)) has ended")
        }
        try identity.record(at: paths.initProcess(member.name))
    }

    private func failure(_ why: String) -> LabError {
        let console = ((try? Files.readText(paths.console(member.name))) ?? "").trimmingWhitespace()
        return LabError("host \(member.name) did not boot: \(why)\(console.isEmpty ? "" : "; console: \(console)")")
    }

    private func receive() throws -> String {
        do throws(KernelError) {
            return String(decoding: try notifications.read(upTo: 4096), as: UTF8.self)
        } catch  where error.code == .again {
            return ""
        }
    }

    private static func listen(_ path: String) throws -> FileDescriptor {
        unlink(path)
        let socketType = Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
        let raw = try systemCall("socket", on: path) { socket(AF_UNIX, socketType, 0) }
        let descriptor = FileDescriptor(owning: raw)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let bytes = [UInt8](path.utf8)
        guard bytes.count < MemoryLayout.size(ofValue: address.sun_path) else {
            throw LabError("\(path) is too long for a socket's name; give the lab a shorter one")
        }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
        let length = socklen_t(MemoryLayout<sockaddr_un>.size)
        try systemCall("bind", on: path) {
            withUnsafePointer(to: &address) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(raw, $0, length) }
            }
        }
        return descriptor
    }
}
