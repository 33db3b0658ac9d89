import Addressing
import Kernel
import Units

/// An annotated unit as systemd and its annotation describe it at one moment.
public struct UnitView: Sendable {
    public var name: String
    public var status: UnitStatus
    public var annotation: Annotation
    public var addresses: [VirtualAddress]

    /// Reads the unit from systemd and its annotation from its files.
    public static func load(_ unit: String, systemd: SystemdClient) throws(MoveError) -> UnitView {
        let status: UnitStatus
        do { status = try systemd.unitProperties(unit) } catch {
            throw MoveError(.invalid, "systemd does not tell about \(unit): \(error)")
        }
        guard status.loadState == "loaded" else {
            throw MoveError(.invalid, "unit \(unit) is \(status.loadState), not loaded")
        }
        let annotation: Annotation?
        do throws(AnnotationErrors) {
            annotation = try Annotation.load(
                fragment: status.fragmentPath, dropIns: status.dropInPaths.filter { !isGone($0, unit) }, unit: unit)
        } catch {
            throw MoveError(.badAnnotation, "\(error)")
        }
        guard let annotation else { throw MoveError(.invalid, "unit \(unit) has no [X-Mobility] section") }
        return UnitView(
            name: unit, status: status, annotation: annotation,
            addresses: annotation.virtualAddresses.compactMap { VirtualAddress(text: $0.description) })
    }

    /// A drop-in of a move that systemd still has loaded, because it would not read its units again.
    private static func isGone(_ path: String, _ unit: String) -> Bool {
        [MoveDropIns.Role.departing, .arriving].contains { MoveDropIns.path(unit, $0) == path } && !Files.exists(path)
    }

    /// How the connect hook treats the unit's sockets.
    public var hookOptions: ConnectHook.Options { .init(rewriteWildcardBinds: annotation.rewriteWildcardBinds) }

    /// Its processes are there; a unit that starts has not claimed anything yet.
    public var isRunning: Bool { ["active", "reloading", "refreshing"].contains(status.activeState) }

    public var hasEnded: Bool { ["inactive", "failed"].contains(status.activeState) }

    /// The unit's cgroup.
    public func cgroup() throws(MoveError) -> Cgroup {
        guard !status.controlGroup.isEmpty else {
            throw MoveError(.invalid, "unit \(name) has no cgroup: it is not running")
        }
        do throws(KernelError) { return try Cgroup.at(status.controlGroup) } catch {
            throw MoveError(.step, "\(error)")
        }
    }

    /// The interface of each address.
    public func interfaces(_ manager: AddressManager) throws(MoveError) -> [(VirtualAddress, NetworkInterface)] {
        let table: AddressTable
        do throws(AddressingError) { table = try manager.list() } catch {
            throw MoveError(.addressUnavailable, "\(error)")
        }
        return try interfaces(in: table)
    }

    /// The same for who asks for many units.
    public func interfaces(in table: AddressTable) throws(MoveError) -> [(VirtualAddress, NetworkInterface)] {
        do throws(AddressingError) {
            var found: [(VirtualAddress, NetworkInterface)] = []
            for address in addresses {
                found.append((address, try table.interface(for: address, named: annotation.interface)))
            }
            return found
        } catch {
            throw MoveError(.addressUnavailable, "\(error)")
        }
    }

    /// Whether a file goes with the service, and need not be on the destination before it.
    func travels(_ path: String) -> Bool {
        if path.hasPrefix(PidFiles.root + "/") && path.hasSuffix(".pid") { return true }
        let places = ownPaths + (status.privateTmp ? LocalState.privatePlaces : [])
        return places.contains { path == $0 || path.hasPrefix($0 + "/") }
    }

    /// What the unit owns on this host besides descriptors: PIDFile, runtime directories.
    public var ownPaths: [String] {
        var paths = status.runtimeDirectories.map { "/run/" + $0 }
        if !status.pidFile.isEmpty { paths.append(status.pidFile) }
        return paths + annotation.carryPaths
    }
}
