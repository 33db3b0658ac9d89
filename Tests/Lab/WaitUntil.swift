import Glibc
import Kernel

/// Waits until `condition` holds, asking every `interval`; an error from it counts as *not yet*.
///
/// For conditions that nothing announces. Throws, naming `what`, when `timeout` has passed; the last error that the
/// condition threw is part of the message.
public func waitUntil(
    _ what: String, timeout: Duration = .seconds(10), interval: Duration = .milliseconds(5),
    _ condition: () throws -> Bool
) throws {
    let clock = ContinuousClock()
    let deadline = clock.now + timeout
    var last: (any Error)?
    while true {
        do {
            if try condition() { return }
            last = nil
        } catch {
            last = error
        }
        guard clock.now < deadline else {
            throw LabError("no \(what) within \(timeout)\(last.map { "; the last attempt: \($0)" } ?? "")")
        }
        poll(nil, 0, interval.milliseconds)
    }
}
