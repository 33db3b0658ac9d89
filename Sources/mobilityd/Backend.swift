import BusService
import Logging
import NodeManager

/// Makes what stands behind the bus.
func makeBackend(log: Logger) throws -> any ManagerBackend {
    try NodeManager(log: log)
}
