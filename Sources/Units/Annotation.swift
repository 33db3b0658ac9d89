import Kernel

/// What a unit's `[X-Mobility]` section says: the unit is a service that can move, with these addresses.
public struct Annotation: Sendable {
    /// The section's name; systemd ignores sections that begin with `X-` (systemd.unit(5)).
    public static let section = "X-Mobility"

    /// The unit, `web.service`.
    public let unit: String
    /// The addresses that move with it, in the order of the file; never empty.
    public let virtualAddresses: [VirtualAddress]
    /// The interface that carries the addresses; nil selects the one whose subnet holds them.
    public let interface: String?
    /// The name that must resolve to the addresses; without a final dot.
    public let dnsName: String?
    /// Absolute paths of local state that moves along.
    public let carryPaths: [String]
    /// Whether a bind to the wildcard address becomes one to the virtual address; default yes.
    public let rewriteWildcardBinds: Bool
    /// Where each key was last set, by its name; `X-Mobility` is the section's own first line.
    public let positions: [String: SourcePosition]
    /// Where each address was written, parallel to `virtualAddresses`.
    public let addressPositions: [SourcePosition]

    /// The keys the section may have.
    public static let keys = ["VirtualAddress", "Interface", "DNSName", "CarryPaths", "RewriteWildcardBinds"]

    /// Reads the annotation of a loaded unit from what systemd names as its `FragmentPath` and `DropInPaths`
    /// (org.freedesktop.systemd1(5)), in that order.
    ///
    /// - Returns: nil when no file has the section.
    /// - Throws: every error of the annotation, not only the first.
    public static func load(
        fragment: String, dropIns: [String], unit: String, from source: some UnitFileSource = DiskUnitFiles()
    ) throws(AnnotationErrors) -> Annotation? {
        var files: [UnitFile] = []
        var unreadable: [AnnotationError] = []
        for path in (fragment.isEmpty ? [] : [fragment]) + dropIns {
            do throws(KernelError) {
                files.append(UnitFile(try source.text(path), path: path))
            } catch {
                let position = SourcePosition(file: path, line: 0)
                unreadable.append(
                    AnnotationError(
                        at: position, key: section, value: "", why: "cannot be read: \(error.code)",
                        allowed: "a readable file"))
            }
        }
        guard unreadable.isEmpty else { throw AnnotationErrors(unit: unit, errors: unreadable) }
        return try read(files, unit: unit)
    }

    /// The annotation that `files` (fragment, then drop-ins in the order of their application) give to `unit`.
    public static func read(_ files: [UnitFile], unit: String) throws(AnnotationErrors) -> Annotation? {
        var reader = AnnotationReader(unit: unit)
        for file in files { reader.take(file) }
        return try reader.finish()
    }

    /// Addresses that two units claim: an error on each of them that names the place of the other.
    ///
    /// - Returns: the errors by unit.
    public static func conflicts(among annotations: [Annotation]) -> [String: [AnnotationError]] {
        var first: [[UInt8]: (unit: String, position: SourcePosition)] = [:]
        var errors: [String: [AnnotationError]] = [:]
        func add(_ unit: String, _ at: SourcePosition, _ address: String, _ other: String, _ otherAt: SourcePosition) {
            errors[unit, default: []].append(
                AnnotationError(
                    at: at, key: "VirtualAddress", value: address, why: "address also claimed by \(other) at \(otherAt)",
                    allowed: "an address that no other unit has"))
        }
        for annotation in annotations.sorted(by: { $0.unit < $1.unit }) {
            for (address, position) in zip(annotation.virtualAddresses, annotation.addressPositions) {
                guard let owner = first[address.bytes] else {
                    first[address.bytes] = (annotation.unit, position)
                    continue
                }
                guard owner.unit != annotation.unit else { continue }
                add(annotation.unit, position, address.description, owner.unit, owner.position)
                add(owner.unit, owner.position, address.description, annotation.unit, position)
            }
        }
        return errors
    }
}
