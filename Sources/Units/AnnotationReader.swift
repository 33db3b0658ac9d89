/// Gathers the `[X-Mobility]` sections of a unit's files into one annotation, and every error on the way.
struct AnnotationReader {
    private let unit: String
    private let name: UnitName?
    private var errors: [AnnotationError] = []
    private var positions: [String: SourcePosition] = [:]
    private var addresses: [(address: VirtualAddress, position: SourcePosition)] = []
    /// Addresses of a template that only an instance can complete.
    private var deferredAddress = false
    private var interface: String?
    private var dnsName: String?
    private var carryPaths: [(path: String, position: SourcePosition)] = []
    private var rewriteWildcardBinds = true

    init(unit: String) {
        self.unit = unit
        name = UnitName(unit)
    }

    mutating func take(_ file: UnitFile) {
        for section in file.sections {
            if section.name == Annotation.section {
                positions[Annotation.section] = positions[Annotation.section] ?? section.position
            } else if isNearMiss(section.name) {
                misspelt(section.name, section.position)
            }
        }
        for line in file.malformed {
            if line.section == Annotation.section && !line.text.hasPrefix("[") {
                report(line.position, Annotation.section, line.text, "not an assignment", "Key=Value")
            } else if line.text.hasPrefix("["), isNearMiss(line.section) || line.section == Annotation.section {
                misspelt(line.section, line.position)
            }
        }
        for assignment in file.assignments where assignment.section == Annotation.section { take(assignment) }
    }

    /// The annotation, nil when there is none, or all errors.
    func finish() throws(AnnotationErrors) -> Annotation? {
        var all = errors
        guard let position = positions[Annotation.section] else {
            if all.isEmpty { return nil }
            throw AnnotationErrors(unit: unit, errors: all)
        }
        if name?.type != "service" {
            all.append(
                AnnotationError(
                    at: position, key: Annotation.section, value: unit, why: "not a service", allowed: "a .service unit"))
        }
        if addresses.isEmpty && !deferredAddress && !all.contains(where: { $0.key == "VirtualAddress" }) {
            all.append(
                AnnotationError(
                    at: position, key: Annotation.section, value: "", why: "no VirtualAddress= in the annotation of \(unit)",
                    allowed: "at least one VirtualAddress=ADDRESS/PREFIX"))
        }
        guard all.isEmpty else { throw AnnotationErrors(unit: unit, errors: all) }
        return Annotation(
            unit: unit, virtualAddresses: addresses.map(\.address), interface: interface, dnsName: dnsName,
            carryPaths: carryPaths.map(\.path), rewriteWildcardBinds: rewriteWildcardBinds, positions: positions,
            addressPositions: addresses.map(\.position))
    }

    private func isNearMiss(_ section: String) -> Bool {
        let plain = section.lowercased().filter { $0.isLetter }
        return section != Annotation.section && (plain == "xmobility" || plain == "mobility")
    }

    private mutating func misspelt(_ section: String, _ position: SourcePosition) {
        report(position, Annotation.section, "[\(section)", "misspelt section", "[\(Annotation.section)]")
    }

    private mutating func report(
        _ position: SourcePosition, _ key: String, _ value: String, _ why: String, _ allowed: String
    ) {
        errors.append(AnnotationError(at: position, key: key, value: value, why: why, allowed: allowed))
    }

    private mutating func report(_ assignment: UnitFile.Assignment, _ why: String, _ allowed: String) {
        report(assignment.position, assignment.key, assignment.value, why, allowed)
    }

    private mutating func take(_ assignment: UnitFile.Assignment) {
        guard Annotation.keys.contains(assignment.key) else {
            return report(assignment, "unknown key", Annotation.keys.map { $0 + "=" }.joined(separator: " "))
        }
        positions[assignment.key] = assignment.position
        let value: String
        do throws(SpecifierError) {
            value = try name?.expand(assignment.value) ?? assignment.value
        } catch {
            return takeUnexpanded(assignment, error)
        }
        switch assignment.key {
        case "VirtualAddress": takeAddress(value, assignment)
        case "Interface": takeInterface(value, assignment)
        case "DNSName": takeDNSName(value, assignment)
        case "CarryPaths": takePaths(value, assignment)
        default: takeRewrite(value, assignment)
        }
    }

    private mutating func takeUnexpanded(_ assignment: UnitFile.Assignment, _ error: SpecifierError) {
        switch error {
        case .needsInstance: deferredAddress = deferredAddress || assignment.key == "VirtualAddress"
        case .incomplete: report(assignment, "% at the end of the value", "%% for a percent sign")
        case .unknown(let letter):
            report(assignment, "specifier %\(letter) is unknown here or differs between hosts", UnitName.specifiers)
        }
    }

    private mutating func takeAddress(_ value: String, _ assignment: UnitFile.Assignment) {
        if value.isEmpty {
            addresses = []
            deferredAddress = false
            return
        }
        do throws(VirtualAddress.Invalid) {
            let address = try VirtualAddress(value)
            if let earlier = addresses.first(where: { $0.address.bytes == address.bytes }) {
                return report(assignment, "duplicate of \(earlier.position)", "each address once")
            }
            addresses.append((address, assignment.position))
        } catch {
            report(assignment, error.why, error.allowed)
        }
    }

    /// dev_valid_name() of the kernel's net/core/dev.c, and `%`, which it takes for a pattern.
    private mutating func takeInterface(_ value: String, _ assignment: UnitFile.Assignment) {
        interface = nil
        if value.isEmpty { return }
        guard value.utf8.count <= 15 else {
            return report(assignment, "interface name longer than 15 bytes", "1 to 15 bytes, as eth0")
        }
        let bad = value.contains { "/:%".contains($0) || $0.isWhitespace }
        if bad || value == "." || value == ".." {
            return report(assignment, "not an interface name", "a name without '/', ':', '%' and white space, as eth0")
        }
        interface = value
    }

    /// Host names as RFC 1123 section 2.1 has them.
    private mutating func takeDNSName(_ value: String, _ assignment: UnitFile.Assignment) {
        dnsName = nil
        if value.isEmpty { return }
        let allowed = "a host name of letters, digits and inner hyphens, as web.example.org"
        let plain = value.hasSuffix(".") ? String(value.dropLast()) : value
        let labels = plain.split(separator: ".", omittingEmptySubsequences: false)
        if plain.utf8.count > 253 { return report(assignment, "DNS name longer than 253 bytes", allowed) }
        for label in labels {
            if label.isEmpty { return report(assignment, "empty label in DNS name", allowed) }
            if label.utf8.count > 63 { return report(assignment, "label longer than 63 bytes", allowed) }
            let letters = label.allSatisfy { $0.isASCII && ($0.isLetter || $0.isNumber || $0 == "-") }
            if !letters || label.hasPrefix("-") || label.hasSuffix("-") {
                return report(assignment, "bad label '\(label)' in DNS name", allowed)
            }
        }
        if labels.last?.allSatisfy(\.isNumber) ?? true { return report(assignment, "an address, not a name", allowed) }
        dnsName = plain
    }

    private mutating func takePaths(_ value: String, _ assignment: UnitFile.Assignment) {
        if value.isEmpty {
            carryPaths = []
            return
        }
        guard let words = splitWords(value) else {
            return report(assignment, "quote or escape left open", "absolute paths separated by spaces")
        }
        for word in words { takePath(word, assignment) }
    }

    private mutating func takePath(_ word: String, _ assignment: UnitFile.Assignment) {
        func refuse(_ why: String, _ allowed: String) {
            errors.append(
                AnnotationError(at: assignment.position, key: assignment.key, value: word, why: why, allowed: allowed))
        }
        guard word.hasPrefix("/") else { return refuse("relative path", "absolute paths separated by spaces") }
        let parts = word.split(separator: "/").filter { $0 != "." }
        guard !parts.contains("..") else { return refuse("path with '..'", "a path without '..'") }
        guard let first = parts.first else { return refuse("the whole file system", "the service's own directories") }
        if ["proc", "sys", "dev"].contains(first) {
            return refuse("path under /\(first), which is the kernel's", "files on a disk or tmpfs")
        }
        let path = "/" + parts.joined(separator: "/")
        if let earlier = carryPaths.first(where: { $0.path == path }) {
            return refuse("duplicate of \(earlier.position)", "each path once")
        }
        carryPaths.append((path, assignment.position))
    }

    /// parse_boolean() of systemd, systemd.syntax(7).
    private mutating func takeRewrite(_ value: String, _ assignment: UnitFile.Assignment) {
        switch value.lowercased() {
        case "", "1", "yes", "y", "true", "t", "on": rewriteWildcardBinds = true
        case "0", "no", "n", "false", "f", "off": rewriteWildcardBinds = false
        default: report(assignment, "not a boolean", "yes or no")
        }
    }
}
