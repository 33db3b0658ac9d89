import Glibc
import Kernel

/// One bridge in a network namespace of its own, and a veth pair from it to each member's `eth0`.
struct LabNetwork {
    let paths: LabPaths
    static let bridge = "br0"

    static func port(_ member: String) -> String { "v-\(member)" }

    /// Makes the namespaces, the bridge and the cables. Nothing appears in the machine's own namespace.
    func make(_ members: [LabMember]) throws {
        try Files.makeDirectories(paths.networks)
        try addNamespace(paths.switchNetwork)
        for member in members { try addNamespace(paths.network(member.name)) }
        var commands = [
            "link add \(Self.bridge) type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            "link set lo up", "link set \(Self.bridge) up",
        ]
        for member in members { commands += cable(member) }
        try ip(in: paths.switchNetwork, commands)
        try keepOrder(in: paths.switchNetwork)
        for member in members { try configure(member) }
    }

    /// A new namespace in place of the member's, with a new cable and nothing else: as after a boot.
    func renew(_ member: LabMember) throws {
        // The namespace may live on for a moment; its end of the cable goes at once.
        try ip(in: paths.switchNetwork, ["link delete \(Self.port(member.name))"])
        release(paths.network(member.name))
        try addNamespace(paths.network(member.name))
        try ip(in: paths.switchNetwork, cable(member))
        try keepOrder(in: paths.switchNetwork)
        try configure(member)
    }

    private func cable(_ member: LabMember) -> [String] {
        let port = Self.port(member.name)
        return [
            "link add \(port) type veth peer name eth0 address \(member.hardwareAddress)"
                + " netns \(paths.network(member.name))",
            "link set \(port) master \(Self.bridge) up",
        ]
    }

    private func configure(_ member: LabMember) throws {
        var commands = [
            "link set lo up", "address add \(member.address)/24 dev eth0", "link set eth0 up",
        ]
        if Files.exists("/proc/sys/net/ipv6") {
            commands.insert("address add \(member.address6)/64 dev eth0 nodad", at: 1)
        }
        try ip(in: paths.network(member.name), commands)
        try keepOrder(in: paths.network(member.name))
    }

    /// A cable keeps the order of its frames; a veth pair does not. What a sender's program and the acknowledgements
    /// that come in have it send are queued at the CPUs where they run, and overtake each other (`netif_rx`,
    /// net/core/dev.c): seen from the peer a path that reorders, on which a bulk sender repeats hundreds of segments a
    /// second. Receive packet steering to one CPU, Documentation/networking/scaling.rst, makes one queue of them.
    func keepOrder(in network: String) throws {
        let script = """
            mount -t sysfs sysfs /sys
            for queue in /sys/class/net/*/queues/rx-0/rps_cpus; do echo 1 > $queue; done
            """
        try Subprocess.run(
            ["/usr/bin/nsenter", "--net=\(network)", "/usr/bin/unshare", "--mount", "/bin/sh", "-ec", script])
    }

    /// Pulls the cable of a member's eth0 out of the bridge, or plugs it in again.
    func setLink(_ member: String, up: Bool) throws {
        try ip(in: paths.switchNetwork, ["link set \(Self.port(member)) \(up ? "up" : "down")"])
    }

    /// Lets go of the namespaces; the kernel frees each with its last process.
    func remove() {
        for name in (try? Files.list(paths.networks)) ?? [] {
            release("\(paths.networks)/\(name)")
        }
    }

    private func release(_ path: String) {
        _ = umount2(path, Int32(2))  // MNT_DETACH
        unlink(path)
    }

    private func addNamespace(_ path: String) throws {
        let file = try FileDescriptor.open(path, O_WRONLY | O_CREAT, mode: 0o600)
        _ = consume file
        try Subprocess.run(["/usr/bin/unshare", "--net=\(path)", "/bin/true"])
    }

    /// ip -batch in a network namespace.
    private func ip(in network: String, _ commands: [String]) throws {
        let batch = network + ".batch"
        try Files.writeAtomically(batch, commands.joined(separator: "\n") + "\n")
        defer { unlink(batch) }
        try Subprocess.run(["/usr/bin/nsenter", "--net=\(network)", "/sbin/ip", "-batch", batch])
    }
}
