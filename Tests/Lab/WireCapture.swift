import Glibc
import Kernel

/// What passes the eth0 of a client, by dumpcap(1), read with tshark(1).
///
/// ```swift
/// let wire = try WireCapture(lab["c"], "host 10.10.10.11")
/// try lab.migrate("nginx.service", from: "a", to: "b")
/// print(try wire.rows("tcp.flags.reset == 1", "ip.src", "ip.dst"))
/// ```
public final class WireCapture {
    private let process: LabProcess
    private let path: String

    /// - Parameter filter: of pcap-filter(7); the first 200 bytes of each frame are kept.
    public init(_ client: LabHost, _ filter: String, interface: String = "eth0") throws {
        path = "/tmp/mobility-wire-\(getpid())-\(Clock.monotonic).pcapng"
        process = try client.spawn(
            "dumpcap", "-q", "-i", interface, "-s", "200", "-B", "64", "-f", filter, "-w", path)
        try waitUntil("the capture") {
            guard process.isRunning else { throw LabError("dumpcap has ended: \(process.errorOutput)") }
            return process.errorOutput.contains("File:")
        }
    }

    deinit {
        process.kill()
        unlink(path)
    }

    /// Ends the capture and sees that nothing passed unseen.
    public func finish() throws {
        // The kernel hands over a block of frames when it is full or a quarter of a second old (CAP_READ_TIMEOUT of
        // dumpcap.c); what is in the last one when dumpcap ends is lost without being counted.
        try Poll.pause(milliseconds: 500)
        try process.signal(SIGINT)
        try process.wait(timeout: .seconds(10))
        guard process.errorOutput.contains("/0 (pcap:0/dumpcap:0/flushed:0/") else {
            throw LabError("the capture has holes: \(process.errorOutput)")
        }
    }

    /// The fields of the frames that a display filter chooses, wireshark-filter(4), so far; fields that a frame has not
    /// are empty.
    public func rows(_ filter: String, _ fields: String...) throws -> [[String]] {
        let arguments = ["/usr/bin/tshark", "-n", "-r", path, "-Y", filter, "-T", "fields"]
        // The last frame of a file that is still written may be cut short.
        let output = try Subprocess.run(
            arguments + fields.flatMap { ["-e", $0] }, allowFailure: process.isRunning
        ).output
        return output.split(separator: "\n").map {
            $0.split(separator: "\t", omittingEmptySubsequences: false).map(String.init)
        }
    }
}
