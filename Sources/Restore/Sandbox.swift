import CKernel
import Glibc
import Kernel
import ProcessImage
import Resources

/// Moves an embryo into what systemd set up for the arriving unit's holder.
enum Sandbox {
    /// Namespaces that can be entered before there are threads and that children inherit.
    private static let entered: [NamespaceKind] = [.ipc, .uts, .cgroup, .mount]

    static func enter(_ embryo: Embryo, _ place: TreePlace) throws(RestoreError) {
        if let raw = place.timeNamespace {
            try step(embryo.pid, "time namespace") { () throws(KernelError) in
                let own = FileDescriptor(owning: try systemCall("fcntl") { ck_fcntl(raw, F_DUPFD_CLOEXEC, 0) })
                try join(embryo, own, .time)
            }
        }
        guard let holder = place.holder else { return }
        for kind in [NamespaceKind.pid, .network] where try differs(kind, holder) {
            throw .namespace(
                kind: kind.name, holder: holder,
                why: "it is not the daemon's own; remove the setting that makes it (PrivateNetwork=, PrivatePIDs=)")
        }
        for kind in entered where try differs(kind, holder) {
            try step(embryo.pid, "\(kind.name) namespace") { () throws(KernelError) in
                try join(embryo, try kind.open(of: holder), kind)
            }
        }
        try step(embryo.pid, "root directory") { () throws(KernelError) in
            let root = try FileDescriptor.open("/proc/\(holder)/root", O_RDONLY | O_DIRECTORY)
            let number = try embryo.give(root, minimum: 0)
            try embryo.run([
                EmbryoCall(Int32(SYS_fchdir), [.int(number)], on: "root of pid \(holder)"),
                EmbryoCall(Int32(SYS_chroot), [.path(".")], on: "root of pid \(holder)"),
                EmbryoCall(Int32(SYS_close), [.int(number)], on: "root of pid \(holder)"),
            ])
        }
    }

    /// The user namespace comes last, when all processes exist: inside it no number can be chosen any more, and it
    /// takes only a process without threads, setns(2). True when it was entered.
    ///
    /// The supplementary groups go before: systemd denies setgroups(2) inside, exec_context's setup_private_users().
    static func enterUserNamespace(
        _ embryo: Embryo, _ place: TreePlace, _ credentials: CredentialsImage
    ) throws(RestoreError) -> Bool {
        guard let holder = place.holder, try hasUserNamespace(place) else { return false }
        guard embryo.threads.count == 1 else {
            throw .namespace(kind: "user", holder: holder, why: "process \(embryo.pid) has threads already")
        }
        try step(embryo.pid, "user namespace") { () throws(KernelError) in
            try embryo.run([ServiceRestore.setGroups(credentials)])
            try join(embryo, try NamespaceKind.user.open(of: holder), .user)
        }
        return true
    }

    /// Whether the unit has a user namespace of its own (PrivateUsers=).
    static func hasUserNamespace(_ place: TreePlace) throws(RestoreError) -> Bool {
        guard let holder = place.holder else { return false }
        return try differs(.user, holder)
    }

    private static func differs(_ kind: NamespaceKind, _ holder: Int32) throws(RestoreError) -> Bool {
        try step(holder, "\(kind.name) namespace") { () throws(KernelError) in
            try kind.identity(of: holder) != kind.identity(of: getpid())
        }
    }

    private static func join(
        _ embryo: Embryo, _ namespace: borrowing FileDescriptor, _ kind: NamespaceKind
    ) throws(KernelError) {
        let number = try embryo.give(namespace, minimum: 0)
        try embryo.run([
            EmbryoCall(Int32(SYS_setns), [.int(number), .int(kind.flag)], on: "\(kind.name) namespace"),
            EmbryoCall(Int32(SYS_close), [.int(number)], on: "\(kind.name) namespace"),
        ])
    }
}
