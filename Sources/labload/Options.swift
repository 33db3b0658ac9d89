/// Options of the form `--name value`.
struct Options {
    private var values: [String: String] = [:]

    struct Wrong: Error, CustomStringConvertible { let description: String }

    init(_ arguments: [String], allowed: Set<String>) throws(Wrong) {
        var rest = arguments[...]
        while let name = rest.popFirst() {
            guard name.hasPrefix("--"), allowed.contains(String(name.dropFirst(2))) else {
                throw Wrong(description: "unknown option \(name)")
            }
            guard let value = rest.popFirst() else { throw Wrong(description: "\(name) needs a value") }
            values[String(name.dropFirst(2))] = value
        }
    }

    func text(_ name: String, default fallback: String? = nil) throws(Wrong) -> String {
        guard let value = values[name] ?? fallback else { throw Wrong(description: "--\(name) is missing") }
        return value
    }

    func number(_ name: String, default fallback: Int? = nil) throws(Wrong) -> Int {
        guard let value = values[name] else {
            guard let fallback else { throw Wrong(description: "--\(name) is missing") }
            return fallback
        }
        guard let number = Int(value), number >= 0 else {
            throw Wrong(description: "--\(name) \(value): not a number")
        }
        return number
    }
}
