import Glibc
import Kernel

extension Lab {
    /// Puts one client behind another, which becomes its router: 10.20.20.2 and fd20:20:20::2 behind .1 and ::1, on a
    /// cable from its `eth1` to the router's. Its own cable to the bridge is pulled. Hosts know the way.
    public func place(_ client: String, behindRouter router: String) throws {
        let networks = [client, router].map { LabPaths(name: name).network($0) }
        try Subprocess.run([
            "/usr/bin/nsenter", "--net=\(networks[1])", "/sbin/ip", "link", "add", "eth1", "type", "veth", "peer",
            "name",
            "eth1", "netns", networks[0],
        ])
        for network in networks { try LabNetwork(paths: LabPaths(name: name)).keepOrder(in: network) }
        let (client, router) = try (self[client], self[router])
        try client.run("ip", "link", "set", "eth0", "down")
        for (member, number) in [(client, 2), (router, 1)] {
            try member.run("ip", "link", "set", "eth1", "up")
            try member.run("ip", "address", "add", "10.20.20.\(number)/24", "dev", "eth1")
            try member.run("ip", "address", "add", "fd20:20:20::\(number)/64", "dev", "eth1", "nodad")
        }
        try client.run("ip", "route", "add", "default", "via", "10.20.20.1")
        try client.run("ip", "route", "add", "default", "via", "fd20:20:20::1")
        try router.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        for host in members where host.hasSystemd {
            try host.run("ip", "route", "add", "10.20.20.0/24", "via", router.address)
            try host.run("ip", "route", "add", "fd20:20:20::/64", "via", router.address6)
        }
    }
}
