import Glibc
import Kernel
import Lab

/// Connections that count: each takes the numbers 1, 2, 3, … from the service and sends them back.
final class Clients {
    private let host: LabHost
    private let program: String
    private let address: String
    private var processes: [LabProcess] = []
    static let count = 3

    init(host: LabHost, program: String, address: String) {
        self.host = host
        self.program = program
        self.address = address
    }

    /// Has every connection live and counting; those that have ended are made anew.
    func ensure() throws {
        processes.removeAll { !$0.isRunning }
        while processes.count < Self.count {
            let process = try host.spawn(program, address, "7000", "20", "10")
            do {
                try waitUntil("number at a new client", timeout: .seconds(5)) {
                    guard process.isRunning else { throw LabError("it has ended: \(process.errorOutput)") }
                    return Self.number(process) > 0
                }
            } catch {
                process.kill()
                throw error
            }
            processes.append(process)
        }
    }

    func end() {
        processes.forEach { $0.kill() }
        processes = []
    }

    /// What has gone wrong with them, by their own account; nil if nothing has.
    var problem: String? {
        for process in processes where !process.isRunning {
            return process.errorOutput.split(separator: "\n").last.map(String.init) ?? "a client has ended"
        }
        for process in processes where !process.errorOutput.isEmpty { return process.errorOutput }
        return nil
    }

    /// Waits until every one has got numbers that had not been sent when this was called.
    func awaitProgress(_ timeout: Duration) throws {
        let before = processes.map(Self.number)
        try waitUntil("progress of the clients", timeout: timeout) {
            if let problem { throw LabError(problem) }
            return zip(processes, before).allSatisfy { Self.number($0) > $1 + 70 }
        }
    }

    /// The number in the last whole line of progress.
    private static func number(_ process: LabProcess) -> Int {
        guard let path = process.outputPath, let file = try? FileDescriptor.open(path, O_RDONLY) else { return 0 }
        let size = lseek(file.raw, 0, SEEK_END)
        guard let bytes = try? file.read(upTo: 128, at: Int64(max(0, size - 128))) else { return 0 }
        let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n", omittingEmptySubsequences: false)
        guard let line = lines.dropLast().last(where: { $0.contains("numbers") }) else { return 0 }
        return Int(line.drop { !$0.isNumber }.prefix { $0.isNumber }) ?? 0
    }
}
