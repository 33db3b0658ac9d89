import BusContract
import Glibc
import Testing

@testable import BusService

/// mobilityctl against the service, and the daemon itself.
extension BusTests {
    private func mobilityctl(_ arguments: String) throws -> CommandResult {
        try shell("\(programs)/mobilityctl \(arguments)")
    }

    @Test func listsAndStatus() throws {
        let fixture = try Fixture()
        #expect(
            try mobilityctl("list --no-legend").output
                == "bad@1.service failed a\nweb.service   local  a\n")
        #expect(
            try mobilityctl("nodes --json=short").output
                == #"[{"address":"10.10.10.2:7413","name":"a","state":"self"},"#
                + #"{"address":"10.10.10.3:7413","name":"node-b","state":"online"}]"# + "\n")
        let status = try mobilityctl("status bad@1.service")
        #expect(status.status == 0)
        #expect(status.output.contains("/etc/systemd/system/bad@.service:7: VirtualAddress: not an address"))
        #expect(try mobilityctl("status none.service").status == FaultCode.noSuchService.exitStatus)
        #expect(try mobilityctl("status --json").output.contains("\"nodeName\" : \"a\""))
        withExtendedLifetime(fixture) {}
    }

    @Test func checkShowsEveryReason() throws {
        let fixture = try Fixture()
        let check = try mobilityctl("check web.service node-b")
        #expect(check.status == 1)
        #expect(check.output.contains("✓ pids  4711"))
        #expect(check.output.contains("✗ files /srv/data differs on node-b"))
        withExtendedLifetime(fixture) {}
    }

    @Test func migrateShowsThePhasesAndTheOutcome() throws {
        let fixture = try Fixture()
        fixture.backend.state.withLock { $0.finishesAtOnce = true }
        let done = try mobilityctl("migrate web.service node-b --downtime-target 20")
        #expect(done.status == 0)
        #expect(done.output.contains("to node-b\nprecopy\nfrozen\ncommitting\ndone\n"))
        #expect(
            done.output.hasSuffix(
                "web.service runs on node-b: done, frozen 9.1 ms, downtime 12.3 ms "
                    + "(capture 4.0 ms, transfer 8.3 ms)\n"))
        #expect(fixture.backend.state.withLock { $0.options.last?.downtimeTargetMicroseconds } == 20_000)

        fixture.backend.state.withLock { $0.finishesAtOnce = false }
        #expect(try mobilityctl("migrate --no-block web.service node-b").output == "2\n")
        #expect(try mobilityctl("cancel 2").status == 0)
        let wait = try mobilityctl("wait 2")
        #expect(wait.status == FaultCode.cancelled.exitStatus)
        #expect(wait.output.contains("cancelled by request"))
        #expect(try mobilityctl("cancel 2").status == FaultCode.tooLate.exitStatus)
        #expect(try mobilityctl("wait 9").status == FaultCode.noSuchMigration.exitStatus)
        #expect(try mobilityctl("migrate web.service z").status == FaultCode.noSuchNode.exitStatus)
        #expect(try mobilityctl("list --migrations --no-legend").output.contains("1 web.service node-b done\n"))
        fixture.backend.state.withLock { $0.finishesAtOnce = true }
        #expect(try mobilityctl("drain a --to node-b").output.contains("web.service runs on node-b"))
    }

    @Test func aTerminalGetsOneLineThatChanges() throws {
        let fixture = try Fixture()
        let backend = fixture.backend
        let id = MigrationID(rawValue: 1)
        let command = "\(programs)/mobilityctl migrate web.service node-b"
        let child = try Child(["script", "-qec", command, "/dev/null"], outputs: [1])
        // The first line is there, so the command follows the migration.
        #expect(child.readLine()?.contains("from a to node-b") == true)
        backend.finish(id)
        var text = ""
        while let line = child.readLine() { text += line }
        #expect(child.wait() == 0)
        #expect(text.contains("\r\u{1b}[Kchecking"))
        #expect(text.contains("\r\u{1b}[Kweb.service runs on node-b: done, frozen 9.1 ms"))
    }

    @Test func unitCommandsSpeakExecCondition() throws {
        let fixture = try Fixture()
        #expect(try mobilityctl("unit may-start web.service").status == 0)
        let departed = try mobilityctl("unit may-start departed.service")
        #expect(departed.status == 1)
        #expect(departed.output.contains("it runs on node-b"))
        #expect(try mobilityctl("unit claim web.service").status == 0)
        let taken = try mobilityctl("unit claim taken.service")
        #expect(taken.status == 255)
        #expect(taken.output.contains("02:00:00:00:00:07"))
        #expect(try mobilityctl("unit release web.service").status == 0)
        withExtendedLifetime(fixture) {}
    }

    @Test func withoutADaemonTheStatusSaysSo() throws {
        let bus = try PrivateBus()
        #expect(try mobilityctl("list").status == 69)
        #expect(try mobilityctl("unit may-start web.service").status == 255)
        withExtendedLifetime(bus) {}
    }

    @Test func enrolmentWorksOnFiles() throws {
        let root = try shell("mktemp -d").output.split(separator: "\n").joined()
        let other = try shell("mktemp -d").output.split(separator: "\n").joined()
        #expect(try mobilityctl("node init --name a --root \(root)").output == "\(root)/etc/mobilityd/node.crt\n")
        #expect(try mobilityctl("node init --name b --root \(other)/").status == 0)
        let added = try mobilityctl("node add b 10.10.10.3 \(other)/etc/mobilityd/node.crt --root \(root)")
        #expect(added.status == 0, "\(added.output)")
        let list = try mobilityctl("node list --no-legend --root \(root)").output
        #expect(list.hasPrefix("b 10.10.10.3 7413 "))
        #expect(try mobilityctl("node remove b --root \(root)").status == 0)
        #expect(try mobilityctl("node list --json=short --root \(root)").output == "[]\n")
        #expect(try mobilityctl("node remove b --root \(root)").status == 1)
        _ = try shell("rm -r \(root) \(other)")
    }

    @Test func theDaemonTellsItsManagerWhatItDoes() throws {
        let bus = try PrivateBus()
        let (daemon, notify) = try startDaemon()
        #expect(try notify.receive().hasPrefix("READY=1\nSTATUS=Node "))
        #expect(try shell("busctl --system introspect org.mobilityd1 /org/mobilityd1").output.contains(".MigrateUnit"))
        #expect(try mobilityctl("nodes --no-legend").output.contains("self"))
        kill(daemon.pid, SIGHUP)
        #expect(try notify.receive().hasPrefix("RELOADING=1\nMONOTONIC_USEC="))
        #expect(try notify.receive().hasPrefix("READY=1\n"))
        kill(daemon.pid, SIGTERM)
        #expect(try notify.receive().hasPrefix("STOPPING=1\n"))
        #expect(daemon.wait() == 0)
        withExtendedLifetime(bus) {}
    }

    @Test func aLostBusEndsTheDaemonForARestart() throws {
        var bus: PrivateBus? = try PrivateBus()
        let (daemon, notify) = try startDaemon()
        #expect(try notify.receive().hasPrefix("READY=1\n"))
        withExtendedLifetime(bus) {}
        bus = nil
        #expect(daemon.wait() == 1)
    }

    /// The real daemon, in mount and network namespaces of its own: the machine's configuration, records, pinned
    /// programs and port are not its business.
    private func startDaemon() throws -> (Child, NotifySocket) {
        let notify = try NotifySocket()
        setenv("NOTIFY_SOCKET", notify.path, 1)
        defer { unsetenv("NOTIFY_SOCKET") }
        let script = """
            set -e
            mount -t tmpfs tmpfs /mnt
            for place in etc var/lib; do
                mkdir -p /mnt/$place /mnt/work/$place
                mount -t overlay overlay -o lowerdir=/$place,upperdir=/mnt/$place,workdir=/mnt/work/$place /$place
            done
            mount -t bpf bpf /sys/fs/bpf
            rm -rf /etc/mobilityd /var/lib/mobilityd
            ip link set lo up
            exec "$1"
            """
        let daemon = ["unshare", "--mount", "--net", "sh", "-c", script, "sh", programs + "/mobilityd"]
        return (try Child(daemon), notify)
    }
}

/// The other end of sd_notify(3).
final class NotifySocket {
    private let descriptor: Int32
    let path = "/tmp/mobility-notify-\(getpid())"

    init() throws {
        unlink(path)
        descriptor = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
        let length = socklen_t(MemoryLayout<sockaddr_un>.size)
        let bound = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(descriptor, $0, length) }
        }
        try #require(bound == 0)
    }

    deinit {
        close(descriptor)
        unlink(path)
    }

    func receive() throws -> String {
        var poller = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        try #require(poll(&poller, 1, 20_000) == 1, "no notification within 20 s")
        var buffer = [UInt8](repeating: 0, count: 4096)
        let count = recv(descriptor, &buffer, buffer.count, 0)
        return String(decoding: buffer.prefix(max(0, count)), as: UTF8.self)
    }
}
