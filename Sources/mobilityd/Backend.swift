import BusContract
import BusService
import Kernel
import Logging

/// Makes what stands behind the bus.
func makeBackend(log: Logger) throws -> any ManagerBackend {
    try NodeDirectory(root: "", log: log)
}
