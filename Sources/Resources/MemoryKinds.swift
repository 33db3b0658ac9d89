/// Every kind of mapping that can be carried.
public enum MemoryKinds {
    public static let all: [any MemoryKind.Type] = []

    /// The kind of a mapping, nil for what nothing here can carry.
    public static func kind(of probe: VMAProbe) -> (any MemoryKind.Type)? { all.first { $0.recognises(probe) } }

    /// The check of one mapping, whatever it is: an unknown kind is a refusal.
    public static func check(_ probe: VMAProbe, in context: CheckContext) -> [Refusal] {
        if let kind = kind(of: probe) { return kind.check(probe, in: context) }
        let range = "\(String(probe.start, radix: 16))-\(String(probe.end, radix: 16))"
        return [
            Refusal(
                pid: probe.pid, subject: "mapping \(range)", object: probe.name,
                why: "mappings of this kind cannot be carried",
                remedy: "configure the service not to use it, or stop and start it on the other host")
        ]
    }
}
