import Glibc
import Kernel

/// The files in which a host differs from the machine: what its upper layer holds before systemd starts.
struct HostStage {
    let root: String

    /// Units of a real machine that would reach beyond the host's namespaces, or that wait for hardware.
    static let masked = [
        "systemd-sysctl.service", "systemd-udevd.service", "systemd-udev-trigger.service",
        "systemd-udev-settle.service", "systemd-udevd-control.socket", "systemd-udevd-kernel.socket",
        "systemd-modules-load.service", "systemd-hwdb-update.service", "systemd-binfmt.service",
        "proc-sys-fs-binfmt_misc.automount", "proc-sys-fs-binfmt_misc.mount", "systemd-random-seed.service",
        "systemd-remount-fs.service", "systemd-machine-id-commit.service", "systemd-firstboot.service",
        "systemd-sysusers.service", "systemd-journal-flush.service", "systemd-update-utmp.service",
        "systemd-update-utmp-runlevel.service", "systemd-tmpfiles-setup-dev.service",
        "sys-fs-fuse-connections.mount", "sys-kernel-config.mount", "sys-kernel-debug.mount",
        "sys-kernel-tracing.mount", "dev-hugepages.mount", "dev-mqueue.mount", "kmod-static-nodes.service",
        "systemd-repart.service", "systemd-pstore.service", "systemd-pcrphase.service",
        "systemd-pcrphase-sysinit.service", "systemd-boot-system-token.service", "systemd-journald-audit.socket",
        "systemd-networkd.service", "systemd-networkd.socket", "systemd-resolved.service",
        "systemd-timesyncd.service", "getty.target", "console-getty.service", "systemd-logind.service",
        "systemd-ask-password-console.path", "systemd-ask-password-wall.path", "systemd-initctl.socket",
        "NetworkManager.service", "networking.service", "ifupdown-pre.service",
    ]

    /// Writes everything but the product.
    func write(for member: LabMember, among members: [LabMember]) throws {
        let units = root + "/etc/systemd/system"
        try Files.makeDirectories(units + "/lab.target.wants")
        for unit in Set(Self.masked).union(Self.wantedByMachine()) { try link("/dev/null", units + "/" + unit) }
        try write("/etc/systemd/system/lab.target", Self.target)
        try link("lab.target", units + "/default.target")
        try write("/etc/systemd/journald.conf.d/90-lab.conf", Self.journal)
        try write("/etc/fstab", "")
        try write("/etc/machine-id", try Self.randomIdentity() + "\n")
        try write("/etc/hostname", member.name + "\n")
        let names = members.map { "\($0.address) \($0.name)\n\($0.address6) \($0.name)\n" }.joined()
        try write("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n" + names)
    }

    /// Writes one file, with the directories above it.
    func write(_ path: String, _ text: String, mode: UInt32 = 0o644) throws {
        guard let slash = path.lastIndex(of: "/") else { throw LabError("\(path) is not an absolute path") }
        try Files.makeDirectories(root + path[..<slash])
        let full = root + path
        let file = try FileDescriptor.open(full, O_WRONLY | O_CREAT | O_TRUNC, mode: mode)
        try file.writeAll([UInt8](text.utf8))
    }

    /// Makes the lab's target want a unit of the product.
    func want(_ unit: String) throws {
        try link("/usr/lib/systemd/system/\(unit)", root + "/etc/systemd/system/lab.target.wants/\(unit)")
    }

    private func link(_ target: String, _ path: String) throws {
        unlink(path)
        try systemCall("symlink", on: path) { symlink(target, path) }
    }

    /// Timers and sockets that packages of the machine have hung into the early targets. Services that they hung
    /// into multi-user.target need no mask: the lab's target never asks for them, and by hand they must start.
    private static func wantedByMachine() -> [String] {
        var found: [String] = []
        for directory in ["/etc/systemd/system", "/usr/lib/systemd/system"] {
            found += (try? Files.list(directory + "/timers.target.wants")) ?? []
        }
        for target in ["sysinit", "sockets", "basic", "local-fs"] {
            found += (try? Files.list("/etc/systemd/system/\(target).target.wants")) ?? []
        }
        return found
    }

    private static func randomIdentity() throws -> String {
        let random = try FileDescriptor.open("/dev/urandom", O_RDONLY).read(upTo: 16)
        return random.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }

    private static let target = """
        [Unit]
        Description=Lab host
        Requires=basic.target
        Wants=dbus.service
        After=basic.target dbus.service
        AllowIsolate=yes

        """

    private static let journal = """
        [Journal]
        Storage=volatile
        ReadKMsg=no
        RateLimitIntervalSec=0

        """
}
