// systemd.generator(7): reads the annotations of all units and writes a drop-in for each annotated service.
import Glibc
import Kernel
import Units

let usage = """
    usage: mobility-generator NORMAL-DIR [EARLY-DIR LATE-DIR]
           mobility-generator --dry-run [UNIT]

    """

func environment(_ name: String) -> String? { getenv(name).map { String(cString: $0) } }

func complain(_ text: String) {
    let standardError = FileDescriptor(owning: STDERR_FILENO)
    // Nobody is left to tell when standard error is closed.
    try? standardError.writeAll([UInt8]("mobility-generator: \(text)\n".utf8))
    _ = standardError.release()
    // In early boot standard error may lead nowhere; the kernel's log is read by the journal once that runs. The
    // manager sets SYSTEMD_SCOPE for its generators, so that a run by hand stays quiet.
    guard environment("SYSTEMD_SCOPE") == "system" else { return }
    try? Files.writeControl("/dev/kmsg", "<3>mobility-generator: \(text)")
}

func report(_ problems: [AnnotationErrors]) {
    for problem in problems {
        for error in problem.errors { complain("\(problem.unit): \(error)") }
    }
}

/// Prints what would be written, for one unit or all; exit status 1 when an annotation is wrong.
func dryRun(_ unit: String?) -> Int32 {
    let search = UnitSearch()
    let plan = GeneratorPlan(search)
    var wanted = unit
    if let unit {
        guard let name = UnitName(unit), let files = search.files(of: name) else {
            complain("\(unit): no such unit in \(search.directories.joined(separator: " "))")
            return 1
        }
        wanted = files.unit
    }
    let files = plan.files.filter { wanted == nil || $0.unit == wanted }
    let problems = plan.problems.filter { wanted == nil || $0.unit == wanted }
    for file in files { print("# \(file.path)\n\(file.text)") }
    if let wanted, files.isEmpty, problems.isEmpty { print("# \(wanted) has no [X-Mobility] section") }
    report(problems)
    return problems.isEmpty ? 0 : 1
}

func generate(into directory: String) -> Int32 {
    // Only the system manager's services can move, and units of the real root are generated for after the switch.
    if environment("SYSTEMD_SCOPE") == "user" || environment("SYSTEMD_IN_INITRD") == "1" { return 0 }
    let plan = GeneratorPlan(UnitSearch())
    report(plan.problems)
    do throws(KernelError) {
        try plan.write(below: directory)
    } catch {
        complain("\(error)")
        return 1
    }
    return plan.problems.isEmpty ? 0 : 1
}

let arguments = CommandLine.arguments.dropFirst()
switch (arguments.first, arguments.count) {
case ("--dry-run", 1): exit(dryRun(nil))
case ("--dry-run", 2): exit(dryRun(arguments.last))
case (let directory?, 1), (let directory?, 3):
    if directory.hasPrefix("/") { exit(generate(into: directory)) }
    fallthrough
default:
    complain(usage)
    exit(2)
}
