/// The name of a unit, systemd.unit(5): `prefix[@[instance]].type`.
public struct UnitName: Hashable, Sendable, CustomStringConvertible {
    /// The whole name, `web@one.service`.
    public let full: String
    /// What precedes `@` or, without one, the type: `web`.
    public let prefix: String
    /// What stands between `@` and the type, escaped; empty for a template, nil without `@`.
    public let instance: String?
    /// The suffix without its dot: `service`.
    public let type: String

    public var description: String { full }
    /// `web@.service`: it cannot run, only its instances can.
    public var isTemplate: Bool { instance == "" }
    /// `web@one.service`.
    public var isInstance: Bool { !(instance ?? "").isEmpty }
    /// The template of an instance; nil for every other name.
    public var template: UnitName? { isInstance ? UnitName(prefix: prefix, instance: "", type: type) : nil }

    /// The types of unit that systemd loads from files, systemd.unit(5).
    public static let types: Set<String> = [
        "service", "socket", "device", "mount", "automount", "swap", "target", "path", "timer", "slice", "scope",
    ]

    /// Nil when `name` is no name of a unit.
    public init?(_ name: String) {
        guard let dot = name.lastIndex(of: "."), dot != name.startIndex, !name.contains("/") else { return nil }
        type = String(name[name.index(after: dot)...])
        guard UnitName.types.contains(type) else { return nil }
        let stem = name[..<dot]
        if let at = stem.firstIndex(of: "@") {
            guard at != stem.startIndex else { return nil }
            prefix = String(stem[..<at])
            instance = String(stem[stem.index(after: at)...])
        } else {
            prefix = String(stem)
            instance = nil
        }
        full = name
    }

    init(prefix: String, instance: String?, type: String) {
        self.prefix = prefix
        self.instance = instance
        self.type = type
        full = prefix + (instance.map { "@" + $0 } ?? "") + "." + type
    }

    /// The names whose `.d` directories apply in one directory of the search path, the most specific first: the
    /// name, its prefixes cut after each dash, and for an instance the same of its template (systemd.unit(5)).
    public var dropInNames: [String] {
        var names: [String] = []
        collectDropInNames(&names)
        return names
    }

    private func collectDropInNames(_ names: inout [String]) {
        if names.contains(full) { return }
        names.append(full)
        var stem = Substring(prefix)
        while stem.last == "-" { stem = stem.dropLast() }
        if let dash = stem.lastIndex(of: "-") {
            let shorter = UnitName(prefix: String(stem[...dash]), instance: instance, type: type)
            shorter.collectDropInNames(&names)
        }
        template?.collectDropInNames(&names)
    }

    /// Undoes unit name escaping, systemd-escape(1): `-` is `/`, `\xNN` a byte.
    public static func unescape(_ text: String) -> String {
        let bytes = Array(text.utf8)
        var result: [UInt8] = []
        var index = 0
        while index < bytes.count {
            let hex = index + 3 < bytes.count && bytes[index] == UInt8(ascii: "\\") && bytes[index + 1] == UInt8(ascii: "x")
            if hex, let byte = UInt8(String(decoding: bytes[(index + 2)...(index + 3)], as: UTF8.self), radix: 16) {
                result.append(byte)
                index += 4
            } else {
                result.append(bytes[index] == UInt8(ascii: "-") ? UInt8(ascii: "/") : bytes[index])
                index += 1
            }
        }
        return String(decoding: result, as: UTF8.self)
    }
}

/// Why a value's specifiers could not be expanded.
public enum SpecifierError: Error, Equatable, Sendable {
    /// `%x` has no meaning in an annotation.
    case unknown(Character)
    /// `%` ends the value.
    case incomplete
    /// The unit is a template and the value needs an instance: only instances can be judged.
    case needsInstance
}

extension UnitName {
    /// The specifiers an annotation may use. Those that differ between hosts (`%H`, `%m`, …) are left out on purpose:
    /// the annotation must mean the same on every host.
    public static let specifiers = "%i %I %p %P %n %N %j %J %t %S %C %L %E %%"

    /// Expands specifiers as systemd.unit(5) defines them for the system manager.
    public func expand(_ value: String) throws(SpecifierError) -> String {
        var result = ""
        var rest = value[...]
        while let percent = rest.firstIndex(of: "%") {
            result += rest[..<percent]
            rest = rest[rest.index(after: percent)...]
            guard let letter = rest.popFirst() else { throw .incomplete }
            result += try expansion(letter)
        }
        return result + rest
    }

    private func expansion(_ letter: Character) throws(SpecifierError) -> String {
        if isTemplate, "iInN".contains(letter) { throw .needsInstance }
        let last = prefix.split(separator: "-", omittingEmptySubsequences: false).last.map(String.init) ?? prefix
        switch letter {
        case "i": return instance ?? ""
        case "I": return UnitName.unescape(instance ?? "")
        case "p": return prefix
        case "P": return UnitName.unescape(prefix)
        case "n": return full
        case "N": return String(full.dropLast(type.count + 1))
        case "j": return last
        case "J": return UnitName.unescape(last)
        case "t": return "/run"
        case "S": return "/var/lib"
        case "C": return "/var/cache"
        case "L": return "/var/log"
        case "E": return "/etc"
        case "%": return "%"
        default: throw .unknown(letter)
        }
    }
}
