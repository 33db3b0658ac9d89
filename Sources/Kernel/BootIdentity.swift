/// The running kernel's boot, random(4) `boot_id`.
public enum BootIdentity {
    /// The first eight hexadecimal digits.
    public static var short: String {
        let text = (try? Files.readText("/proc/sys/kernel/random/boot_id")) ?? "00000000"
        return String(text.prefix(8))
    }
}
