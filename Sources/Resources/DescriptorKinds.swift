import ProcessImage

/// Every kind of descriptor that can be carried; the support matrix is this list.
public enum DescriptorKinds {
    public static let all: [any DescriptorKind.Type] = fileKinds + socketKinds

    /// The kind of a captured description, nil for a name this version does not know.
    public static func named(_ name: String) -> (any DescriptorKind.Type)? { byName[name] }
    private static let byName = Dictionary(uniqueKeysWithValues: all.map { ($0.name, $0) })

    /// The kind of a descriptor, nil for what nothing here can carry.
    public static func kind(of probe: DescriptorProbe) -> (any DescriptorKind.Type)? {
        all.first { $0.recognises(probe) }
    }

    /// The check of one descriptor, whatever it is: an unknown kind is a refusal.
    public static func check(_ probe: DescriptorProbe, in context: CheckContext) -> [Refusal] {
        if let kind = kind(of: probe) { return kind.check(probe, in: context) }
        return [
            Refusal(
                pid: probe.pid, subject: "fd \(probe.number)", object: probe.link,
                why: "descriptors of this kind cannot be carried",
                remedy: "configure the service not to use it, or stop and start it on the other host")
        ]
    }
}
