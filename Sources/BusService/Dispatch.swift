import BusContract
import CSystemd
import Glibc

// The functions that sd-bus calls, and nothing more: each finds the service behind `userdata` and hands over.

private func service(_ userdata: UnsafeMutableRawPointer?) -> BusService? {
    userdata.map { Unmanaged<BusService>.fromOpaque($0).takeUnretainedValue() }
}

/// Every method of every vtable, sd_bus_message_handler_t.
@_cdecl("mobility_bus_method")
func busMethod(
    _ message: OpaquePointer?, _ userdata: UnsafeMutableRawPointer?, _ error: UnsafeMutablePointer<sd_bus_error>?
) -> Int32 {
    guard let message, let service = service(userdata) else { return -EINVAL }
    let incoming = Incoming(message)
    service.answer(incoming) { try service.dispatch(incoming) }
    return 1
}

/// Every property of every vtable, sd_bus_property_get_t.
@_cdecl("mobility_bus_property")
func busProperty(
    _ bus: OpaquePointer?, _ path: UnsafePointer<CChar>?, _ interface: UnsafePointer<CChar>?,
    _ property: UnsafePointer<CChar>?, _ reply: OpaquePointer?, _ userdata: UnsafeMutableRawPointer?,
    _ error: UnsafeMutablePointer<sd_bus_error>?
) -> Int32 {
    guard let path, let property, let reply, let service = service(userdata) else { return -EINVAL }
    do {
        try service.property(String(cString: property), path: String(cString: path), reply: Outgoing(reply))
        return 1
    } catch let fault as BusFault {
        return sd_bus_error_set(error, fault.code.busName, fault.message)
    } catch let failure as BusCallError {
        return -failure.code.rawValue
    } catch {
        return -EIO
    }
}

/// sd-bus's own signal, sd_bus_message_handler_t.
func busDisconnected(
    _ message: OpaquePointer?, _ userdata: UnsafeMutableRawPointer?, _ error: UnsafeMutablePointer<sd_bus_error>?
) -> Int32 {
    service(userdata)?.onDisconnect?()
    return 0
}

/// Whether a path of a fallback vtable exists, sd_bus_object_find_t.
func busFind(
    _ bus: OpaquePointer?, _ path: UnsafePointer<CChar>?, _ interface: UnsafePointer<CChar>?,
    _ userdata: UnsafeMutableRawPointer?, _ found: UnsafeMutablePointer<UnsafeMutableRawPointer?>?,
    _ error: UnsafeMutablePointer<sd_bus_error>?
) -> Int32 {
    guard let path, let found, let service = service(userdata) else { return 0 }
    guard let object = BusObject(path: String(cString: path)), service.exists(object) else { return 0 }
    found.pointee = userdata
    return 1
}

/// The paths of one kind of object, sd_bus_node_enumerator_t; sd-bus frees what it is given.
///
/// Each kind has a function of its own, because the prefix that sd-bus passes is that of the question, which may be
/// further up, and not that of the enumerator.
let busEnumerators: [(prefix: String, enumerate: sd_bus_node_enumerator_t)] = [
    (BusName.services, { _, _, userdata, nodes, _ in enumerate(BusName.services, userdata, nodes) }),
    (BusName.migrations, { _, _, userdata, nodes, _ in enumerate(BusName.migrations, userdata, nodes) }),
    (BusName.nodes, { _, _, userdata, nodes, _ in enumerate(BusName.nodes, userdata, nodes) }),
]

private func enumerate(
    _ prefix: String, _ userdata: UnsafeMutableRawPointer?,
    _ nodes: UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?>?
) -> Int32 {
    guard let nodes, let service = service(userdata) else { return -EINVAL }
    guard let paths = makeStringVector(service.paths(below: prefix)) else { return -ENOMEM }
    nodes.pointee = paths
    return 1
}
