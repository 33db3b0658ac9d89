import Glibc
import Kernel
import Testing

@testable import Lab

/// The bus as a person with busctl(1) sees it on a host.
@Suite(.serialized)
struct CheckBusTests {
    private static let manager = ["org.mobilityd1", "/org/mobilityd1", "org.mobilityd1.Manager"]

    @Test func `The bus shows, checks, moves and waits`() throws {
        if skippedWithoutRoot() { return }
        let lab = try RollbackLab("bus")
        let pid = try lab.start(on: "a")
        let a = try lab["a"]
        let tree = try a.run("busctl", "tree", "--list", "org.mobilityd1").output
        for path in ["/org/mobilityd1", "/org/mobilityd1/service/counter_2eservice", "/org/mobilityd1/node/b"] {
            #expect(tree.split(separator: "\n").contains { $0 == path }, "\(path) is not in:\n\(tree)")
        }
        let members = try a.run("busctl", "introspect", "org.mobilityd1", "/org/mobilityd1").output
        for member in ["MigrateUnit", "CheckUnit", "DrainNode", "ListServices", "MigrationNew", "NodeName"] {
            #expect(members.contains(".\(member) "), "\(member) is not in:\n\(members)")
        }
        let service = try a.run("busctl", "introspect", "org.mobilityd1", "/org/mobilityd1/service/counter_2eservice")
        #expect(service.output.contains("\"10.10.10.11/24\"") && service.output.contains("\"local\""))

        let monitor = try a.spawn("busctl", "monitor", "org.mobilityd1")
        defer { monitor.kill() }
        try waitUntil("busctl monitor") { monitor.errorOutput.contains("Monitoring") }
        for (options, name) in [
            (["1", "no-such-option", "b", "true"], "no-such-option"), (["1", "wait", "s", "yes"], "wait"),
        ] {
            let wrong = try call(a, "MigrateUnit", ["ssa{sv}", RollbackLab.unit, "b"] + options)
            #expect(!wrong.succeeded && wrong.errorOutput.contains(name), "\(wrong.errorOutput)")
        }
        let nowhere = try call(a, "MigrateUnit", ["ssa{sv}", RollbackLab.unit, "x", "0"])
        #expect(!nowhere.succeeded && nowhere.errorOutput.contains("node x is not enrolled"))
        let nothing = try call(a, "MigrateUnit", ["ssa{sv}", "nothing.service", "b", "0"])
        #expect(!nothing.succeeded && nothing.errorOutput.contains("nothing.service"))
        let check = try call(a, "CheckUnit", ["ss", RollbackLab.unit, "b"])
        #expect(check.output.hasPrefix("a(ssbs) ") && !check.output.contains(" false "), "\(check.output)")

        let moved = try call(a, "MigrateUnit", ["ssa{sv}", RollbackLab.unit, "b", "1", "wait", "b", "true"])
        #expect(moved.output.contains("/org/mobilityd1/migration/"), "\(moved.errorOutput)")
        // It was waited for: the service runs over there by now.
        #expect(try lab.property("MainPID", on: "b") == "\(pid)")
        #expect(try call(a, "ListServices", []).output.contains("\"remote\" \"b\""))
        let path = moved.trimmed.split(separator: "\"").last.map(String.init) ?? ""
        let waited = try a.run("busctl", "call", "org.mobilityd1", path, "org.mobilityd1.Migration", "Wait")
        #expect(waited.succeeded)
        try waitUntil("signals at the monitor") { monitor.output.contains("MigrationRemoved") }
        for member in ["MigrationNew", "PropertiesChanged", "LogMessage", "MigrationRemoved"] {
            #expect(monitor.output.contains("Member=\(member)"))
        }
        let again = try call(a, "MigrateUnit", ["ssa{sv}", RollbackLab.unit, "b", "0"])
        #expect(!again.succeeded && again.errorOutput.contains("is on node b"))
    }

    private func call(_ host: LabHost, _ method: String, _ arguments: [String]) throws -> CommandResult {
        try host.run(["busctl", "call", "--timeout=60"] + Self.manager + [method] + arguments, allowFailure: true)
    }
}
