import Glibc
import Kernel
import Lab

/// One TCP connection from client c over which questions are asked and answered line by line.
final class Asker {
    private let process: LabProcess
    private let questions: FileDescriptor
    private let fifo: String

    init(_ lab: Lab, _ address: String, port: Int) throws {
        let program = try lab.clientProgram("ask")
        let fifo = "\(program).\(address).\(port).\(Clock.monotonic)"
        let process = try lab["c"].spawn(program, address, "\(port)", fifo)
        var opened: FileDescriptor?
        do {
            try waitUntil("connection to \(address) port \(port)") {
                guard process.isRunning else { throw LabError(process.errorOutput) }
                // Without a reader the open fails, open(2) ENXIO.
                opened = try FileDescriptor.open(fifo, O_WRONLY | O_NONBLOCK)
                return true
            }
        } catch {
            process.kill()
            throw error
        }
        guard let descriptor = opened.take() else { throw LabError("no fifo \(fifo)") }
        questions = descriptor
        self.process = process
        self.fifo = fifo
    }

    deinit { close() }

    /// Sends one line and waits for the line that answers it.
    func ask(_ question: String, timeout: Duration = .seconds(5)) throws -> String {
        let before = process.output.split(separator: "\n").count
        try questions.writeAll([UInt8]((question + "\n").utf8))
        var answer = ""
        try waitUntil("answer to `\(question)`", timeout: timeout) {
            let text = process.output
            let lines = text.split(separator: "\n")
            guard lines.count > before, text.hasSuffix("\n") else {
                guard process.isRunning else { throw LabError("the connection has ended: \(process.errorOutput)") }
                return false
            }
            answer = String(lines[before])
            return true
        }
        return answer
    }

    /// Whether the connection still stands.
    var isOpen: Bool { process.isRunning }

    /// Ends the connection.
    func close() {
        process.kill()
        unlink(fifo)
    }
}
