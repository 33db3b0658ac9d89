import Foundation

/// What the demo measured; its members are those of the last line of output.
struct Outcome {
    var moves = 0
    var hashOK = false
    var requests = 0
    var failed = 0
    var resets = 0
    /// Retransmission timeouts on the client, TcpExt.TCPTimeouts.
    var timeouts = 0
    var retransmitted = 0
    var frozen: [Double] = []
    var longestSilence: [Double] = []
    /// Why the demo has failed; empty if it has not.
    var problems: [String] = []

    /// The last line of output, in the order in which a reader asks.
    var json: String {
        func list(_ values: [Double]) -> String {
            "[" + values.map { String(format: "%.1f", $0) }.joined(separator: ",") + "]"
        }
        return "{\"moves\":\(moves),\"hash_ok\":\(hashOK),\"requests\":\(requests),\"failed\":\(failed),"
            + "\"resets\":\(resets),\"rto\":\(timeouts),\"retransmitted\":\(retransmitted),"
            + "\"frozen_ms\":\(list(frozen)),\"longest_silence_ms\":\(list(longestSilence))}"
    }
}

/// Prints a line at once: whoever follows the demo through a pipe sees it when it happens.
func say(_ text: String) { FileHandle.standardOutput.write(Data((text + "\n").utf8)) }
