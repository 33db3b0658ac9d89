import Glibc
import Kernel

/// The main process of a unit, as seen from outside without touching it.
public struct MasterProcess: Sendable {
    /// As the host numbers it.
    public let pid: Int
    /// The 16 bytes at AT_RANDOM, getauxval(3): the kernel draws them at execve(2), so equal bytes mean no exec.
    public let random: [UInt8]
    /// When the kernel made the process, on the machine's boottime clock, in seconds; 10 ms resolution.
    public let started: Double

    /// Looks at the main process that systemd names for `unit`, or at its only one where systemd guesses none; an error
    /// if there is none.
    public init(of unit: String, on host: LabHost) throws {
        var text = try host.run("systemctl", "show", "--value", "-p", "MainPID", unit).trimmed
        if text == "0" {
            let group = try host.run("systemctl", "show", "--value", "-p", "ControlGroup", unit).trimmed
            text = try host.run("cat", "/sys/fs/cgroup\(group)/cgroup.procs").trimmed
        }
        guard let pid = Int(text), pid > 0 else { throw LabError("\(unit) has no main process on \(host.name)") }
        self.pid = pid
        random = try Self.randomBytes(pid, host)
        // Read through the host's /proc from outside, so shown on the machine's clock, not on the host's.
        let stat = try host.readText("/proc/\(pid)/stat")
        let fields = stat[(stat.lastIndex(of: ")") ?? stat.startIndex)...].split(separator: " ")
        guard fields.count > 20, let ticks = Double(fields[20]) else {
            throw LabError("/proc/\(pid)/stat on \(host.name) is short: \(stat)")
        }
        started = ticks / Double(sysconf(Int32(_SC_CLK_TCK)))
    }

    /// `random` in hexadecimal.
    public var randomText: String { random.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined() }

    private static func randomBytes(_ pid: Int, _ host: LabHost) throws -> [UInt8] {
        let vector = try host.read("/proc/\(pid)/auxv")
        for entry in stride(from: 0, to: vector.count - 15, by: 16) where word(vector, entry) == 25 {  // AT_RANDOM
            let memory = try host.open("/proc/\(pid)/mem", O_RDONLY)
            let bytes = try memory.read(upTo: 16, at: Int64(bitPattern: word(vector, entry + 8)))
            guard bytes.count == 16 else { break }
            return bytes
        }
        throw LabError("the auxiliary vector of process \(pid) on \(host.name) has no readable AT_RANDOM")
    }

    private static func word(_ bytes: [UInt8], _ offset: Int) -> UInt64 {
        (0..<8).reduce(0) { $0 | UInt64(bytes[offset + $1]) << UInt64(8 * $1) }
    }
}
