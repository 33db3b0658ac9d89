import CSystemd
import Glibc
import Kernel

/// Descriptors that systemd keeps for this daemon and gives back when it starts again, sd_pid_notify_with_fds(3),
/// `FileDescriptorStoreMax=` of systemd.service(5). Without a service manager nothing is kept.
public enum DescriptorStore {
    /// As many as fit into one message: SCM_MAX_FD of the kernel (include/net/scm.h) is 253.
    private static let batch = 250

    /// Keeps copies of `descriptors` under the name of `unit`. They are safe when this returns.
    public static func keep(_ descriptors: [Int32], for unit: String) throws(KernelError) {
        for start in stride(from: 0, to: descriptors.count, by: batch) {
            let part = Array(descriptors[start..<min(start + batch, descriptors.count)])
            // Whether the peer of a socket is gone is not the manager's business.
            let state = "FDSTORE=1\nFDPOLL=0\nFDNAME=\(name(unit))"
            let result = sd_pid_notify_with_fds(0, 0, state, part, UInt32(part.count))
            guard result >= 0 else {
                throw KernelError(call: "sd_pid_notify_with_fds", object: unit, code: Errno(rawValue: -result))
            }
        }
    }

    /// Lets go of what is kept for `unit`. Repeatable.
    public static func remove(_ unit: String) {
        sd_notify(0, "FDSTOREREMOVE=1\nFDNAME=\(name(unit))")
    }

    /// What a former process of this daemon kept, by unit, in its order; once, at the start.
    public static func takeBack() -> [String: [Int32]] {
        var names: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?
        let count = sd_listen_fds_with_names(1, &names)
        guard count > 0, let names else { return [:] }
        defer { free(names) }
        var kept: [String: [Int32]] = [:]
        for index in 0..<Int(count) {
            guard let text = names[index] else { continue }
            kept[unit(String(cString: text)), default: []].append(Int32(SD_LISTEN_FDS_START) + Int32(index))
            free(text)
        }
        return kept
    }

    /// A name must not contain a colon, a unit's never contains a slash.
    private static func name(_ unit: String) -> String { String(unit.map { $0 == ":" ? "/" : $0 }) }
    private static func unit(_ name: String) -> String { String(name.map { $0 == "/" ? ":" : $0 }) }
}
