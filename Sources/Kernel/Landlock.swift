import CKernel
import Glibc

/// landlock(7).
public enum Landlock {
    /// Whether processes of this kernel can restrict themselves by it: landlock_create_ruleset(2) tells its version.
    public static let isEnabled: Bool = {
        // System call 444, LANDLOCK_CREATE_RULESET_VERSION.
        ck_syscall(444, 0, 0, 1, 0, 0, 0) > 0
    }()

    /// Whether Landlock's part of a credential is the first: no other module that has one was started before it,
    /// lsm_list_modules(2). False where the kernel does not tell (before 6.8).
    public static let isFirst: Bool = {
        var modules = [UInt64](repeating: 0, count: 64)
        var size = UInt32(modules.count * 8)
        // System call 461.
        let count = modules.withUnsafeMutableBytes { list in
            withUnsafeMutablePointer(to: &size) {
                ck_syscall(461, Int(bitPattern: list.baseAddress), Int(bitPattern: $0), 0, 0, 0, 0)
            }
        }
        // LSM_ID_LANDLOCK; SELINUX, SMACK, APPARMOR.
        return modules.prefix(max(0, Int(count))).first { [110, 101, 102, 104].contains($0) } == 110
    }()
}
