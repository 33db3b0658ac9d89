import Kernel
import NameCheck

/// The name under which clients know a service, against what DNS says.
enum NameLines {
    /// How long all questions together may take, ms.
    static let patience: Int64 = 3000

    /// One line a question; a definite mismatch fails, a server that does not answer does not: DNS being down is no
    /// reason to keep a service on a host that must go. Never asked while anything is frozen.
    static func check(_ view: UnitView) -> [CheckLine] {
        guard let name = view.annotation.dnsName else { return [] }
        do throws(NameCheckError) {
            return try NameChecker.check(
                name: name, addresses: view.addresses.map(\.description), resolvConf: "/etc/resolv.conf",
                deadline: .after(milliseconds: patience)
            ).map { finding in
                CheckLine("dns", name, passed: finding.verdict != .failed, why: finding.description)
            }
        } catch {
            return [CheckLine("dns", name, passed: true, why: "could not be asked: \(error)")]
        }
    }
}
