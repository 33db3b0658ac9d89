import Addressing
import Glibc
import Kernel
import Logging
import Units

/// What is left to tidy up once a service runs here: nothing of it may fail the move, what goes wrong is logged.
struct Settling: Sendable {
    let unit: String
    /// The pid of mobility-arrive.
    let holder: Int32
    let cgroup: Cgroup
    let moving: Cgroup
    let host: Host
    let move: String
    let addresses: [(VirtualAddress, NetworkInterface)]
    let log: Logger

    func run() {
        let start = Clock.monotonic
        // How a unit ended that has ended already is to be known when the drop-in is gone.
        let systemd = try? SystemdClient()
        defer { withExtendedLifetime(systemd) {} }
        attempt("keeping \(unit) loaded") { try systemd?.keepLoaded(unit) }
        Waypoint.destinationSettling.pass()
        // The source fell silent for good before it said commit; the watch is not worth a part of the downtime.
        host.watches.begin(addresses, for: unit)
        attempt("moving the processes into the unit") {
            try moving.moveProcesses(to: cgroup)
            try moving.remove()
        }
        attempt("ending the holder") { try systemCall("kill", on: "pid \(holder)") { kill(holder, SIGTERM) } }
        attempt("removing the arrival drop-in") {
            WakingFile(unit).remove()
            try RuntimeDropIn(unit, .arriving).remove()
        }
        // Its record may have failed; then it is still its source's.
        host.completeDecisions()
        attempt("forgetting the move") { try host.settled(unit, move) }
        attempt("having systemd read \(unit) again") {
            try host.managerReload.perform(for: unit) { [unit, host] in host.restartIfOwed(unit) }
        }
        Waypoint.destinationSettled.pass()
        attempt("starting \(unit) again") { try startIfAsked() }
        log.info("\(unit) is settled here after \((Clock.monotonic - start) / 1_000_000) ms")
    }

    /// Who had systemd start the unit anew while the drop-in was there got another holder in place of the service.
    private func startIfAsked() throws {
        let systemd = try SystemdClient()
        let status = try systemd.unitProperties(unit)
        guard status.mainPID > 0, status.mainPID != holder,
            (try? Files.readLink("/proc/\(status.mainPID)/exe")) == MoveDropIns.arriveProgram
        else { return }
        _ = try systemd.queueStop(unit)
        try systemd.awaitState(unit, ["inactive", "failed"], milliseconds: 10_000)
        _ = try systemd.queueStart(unit)
    }

    private func attempt(_ what: String, _ body: () throws -> Void) {
        do { try body() } catch { log.error("\(what): \(error)") }
    }
}
