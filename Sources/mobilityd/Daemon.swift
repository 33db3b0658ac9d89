import BusContract
import BusService
import Glibc
import Logging

/// The daemon's life: loop, backend, bus, and what the signals mean.
final class Daemon {
    private let loop: EventLoop
    private let backend: any ManagerBackend
    private let service: BusService
    private let log: Logger
    private var isStopping = false

    init(log: Logger) throws {
        self.log = log
        loop = try EventLoop()
        backend = try makeBackend(log: log)
        service = try BusService(backend: backend, version: mobilityVersion, loop: loop, log: log)
    }

    /// Serves until SIGTERM or SIGINT; gives the exit status.
    func run() throws -> Int32 {
        for signal in [SIGTERM, SIGINT] {
            try loop.onSignal(signal) { [self] in stop(status: 0) }
        }
        try loop.onSignal(SIGHUP) { [self] in reload() }
        service.onDisconnect = { [self] in
            log.critical("the system bus is gone")
            stop(status: 1)
        }
        try loop.enableWatchdog()
        try service.requestName()
        log.notice("mobilityd \(mobilityVersion) serves as node \(backend.nodeName)")
        ServiceManager.ready(summary)
        return try loop.run()
    }

    private var summary: String {
        let count = backend.services().count
        return "Node \(backend.nodeName): \(count) service\(count == 1 ? "" : "s"), \(backend.nodes().count) nodes"
    }

    private func reload() {
        ServiceManager.reloading("Reading the configuration again")
        backend.reload(
            completion: service.completion { [self] (result: Result<Void, BusFault>) in
                if case .failure(let fault) = result { log.error("reload failed, the old settings stay: \(fault)") }
                ServiceManager.ready(summary)
            })
    }

    private func stop(status: Int32) {
        if isStopping { return }
        isStopping = true
        ServiceManager.stopping("Rolling back what has not been committed")
        log.notice("mobilityd ends")
        backend.shutDown(
            completion: service.completion { [self] (result: Result<Void, BusFault>) in
                if case .failure(let fault) = result { log.error("the end was not clean: \(fault)") }
                service.releaseName()
                loop.exit(status)
            })
    }
}
