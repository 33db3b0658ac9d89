import Glibc
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

    /// What it is, in the words of its manual page.
    private static func description(of probe: DescriptorProbe) -> String {
        if probe.mode & S_IFMT == S_IFIFO { return "a named FIFO, whose other end may come and go outside the unit," }
        if let socket = probe.socket {
            switch (Int32(socket.family), Int32(socket.type)) {
            case (AF_PACKET, _): return "packet sockets"
            case (_, 3): return "raw sockets"  // SOCK_RAW
            default: return "sockets of family \(socket.family), type \(socket.type)"
            }
        }
        switch probe.mode & S_IFMT {
        case S_IFCHR, S_IFBLK: return "devices of this kind"
        default: return "descriptors of this kind"
        }
    }

    /// Programs of the service's at its sockets, socket(7): the kernel gives only classic filters back.
    private static func programs(_ probe: DescriptorProbe) -> [Refusal] {
        guard let socket = probe.socket else { return [] }
        var refusals: [Refusal] = []
        if socket.hasFilter {
            refusals.append(
                probe.refusal(
                    "has a packet filter (SO_ATTACH_FILTER), which cannot be carried",
                    remedy: "configure the service not to filter that socket"))
        }
        if socket.hasSelector {
            refusals.append(
                probe.refusal(
                    "has a program that spreads connections (SO_ATTACH_REUSEPORT_CBPF), which cannot be carried",
                    remedy: "configure the service not to use it; the kernel spreads by a hash of the addresses"))
        }
        return refusals
    }

    /// The check of one descriptor, whatever it is: an unknown kind is a refusal.
    public static func check(_ probe: DescriptorProbe, in context: CheckContext) -> [Refusal] {
        if let kind = kind(of: probe) { return kind.check(probe, in: context) + programs(probe) }
        return [
            Refusal(
                pid: probe.pid, subject: "fd \(probe.number)", object: probe.link,
                why: "\(description(of: probe)) cannot be carried",
                remedy: "configure the service not to use it, or stop and start it on the other host")
        ]
    }
}
