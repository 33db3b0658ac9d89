import Glibc
import Kernel
import Resources

/// The session keyring, keyrings(7): an embryo begins with the daemon's, which is no business of the service's.
enum SessionKeyring {
    // System calls of x86-64; Glibc does not show them.
    private static let addKey: Int32 = 248, keyctl: Int32 = 250
    // KEY_SPEC_SESSION_KEYRING.
    private static let specifier = -3

    /// A new one as systemd makes it for a unit (KeyringMode=private), with the unit's invocation id in it. Processes
    /// that are cloned from this one share it. A kernel without keyrings has none.
    static func join(_ embryo: Embryo, _ place: TreePlace) throws(RestoreError) {
        try step(embryo.pid, "session keyring") { () throws(KernelError) in
            // KEYCTL_JOIN_SESSION_KEYRING without a name.
            let joined = try embryo.run([
                EmbryoCall(keyctl, [.int(1), .int(0)], on: "session keyring", mustSucceed: false)
            ])
            let result = joined[0].value
            if result == -Int(ENOSYS) || result == -Int(EOPNOTSUPP) { return }
            guard result > 0 else {
                let code = Errno(rawValue: Int32(truncatingIfNeeded: -result))
                throw KernelError(call: "keyctl", object: "session keyring", code: code)
            }
            guard let holder = place.holder, let identity = try invocation(of: holder) else { return }
            let name = "invocation_id"
            // Possessor and owner may view, read and search it, as with setup_keyring() of systemd.
            try embryo.run([
                EmbryoCall(
                    addKey,
                    [.path("user"), .path(name), .bytes(identity), .int(identity.count), .int(specifier)], on: name),
                EmbryoCall(keyctl, [.int(5), .int(0), .int(0x0b0b_0000)], on: name, takes: (1, 1)),
            ])
        }
    }

    /// The keyring belongs to the service's user, keyctl(2) KEYCTL_CHOWN; not inside a user namespace, where systemd
    /// leaves it to root as well.
    static func giveAway(user: UInt32, group: UInt32) -> EmbryoCall {
        EmbryoCall(
            keyctl, [.int(4), .int(specifier), .int(Int(user)), .int(Int(group))], on: "session keyring",
            mustSucceed: false)
    }

    /// INVOCATION_ID of a process's environment, as bytes.
    private static func invocation(of pid: Int32) throws(KernelError) -> [UInt8]? {
        let prefix = "INVOCATION_ID="
        for variable in try Files.read("/proc/\(pid)/environ").split(separator: 0) {
            let text = String(decoding: variable, as: UTF8.self)
            guard text.hasPrefix(prefix) else { continue }
            let digits = Array(text.dropFirst(prefix.count))
            let bytes = stride(from: 0, to: digits.count - 1, by: 2).compactMap {
                UInt8(String(digits[$0...$0 + 1]), radix: 16)
            }
            return bytes.count == 16 ? bytes : nil
        }
        return nil
    }
}
