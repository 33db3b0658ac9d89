import CKernel
import Glibc
import Testing

@testable import Addressing
@testable import Kernel

/// A cgroup of the test's own below the cgroup2 mount.
private final class TestCgroup: Sendable {
    let path: String

    init() throws {
        let line = try Files.readText("/proc/self/mountinfo").split(separator: "\n")
            .first { $0.contains(" - cgroup2 ") }
        guard let mount = line?.split(separator: " ")[4] else { throw CommandFailed(description: "no cgroup2 mount") }
        path = "\(mount)/mobilityd-test-\(getpid())"
        try Files.makeDirectories(path)
    }

    func remake() throws {
        remove()
        try Files.makeDirectories(path)
    }

    func remove() { _ = rmdir(path) }

    deinit { remove() }
}

@Suite(.serialized) struct ConnectHookTests {
    /// Prints the source address each call got, or the error's name.
    private static let script = """
        import socket, sys, os, errno
        cgroup, kind, destination, source = sys.argv[1:5]
        if cgroup: open(cgroup + "/cgroup.procs", "w").write(str(os.getpid()))
        family = socket.AF_INET6 if ":" in destination else socket.AF_INET
        stream = kind in ("tcp", "late", "listen", "listen6")
        s = socket.socket(family, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
        s.settimeout(3)
        try:
            if kind in ("listen", "listen6"):
                if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, kind == "listen6")
                s.bind((destination, 0))
                print(s.getsockname()[0])
            else:
                if kind == "late": s.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
                if source: s.bind((source, 0))
                if kind == "sendto": s.sendto(b"x", (destination, 7000))
                else:
                    s.connect((destination, 7000))
                    s.send(b"x")
                    print(s.getsockname()[0])
        except OSError as e: print(errno.errorcode[e.errno])
        """

    private struct Fixture {
        let network: Network
        let pins: PinDirectory
        let cgroup: TestCgroup
        let hook: ConnectHook

        init() throws {
            network = try Network()
            pins = try PinDirectory()
            cgroup = try TestCgroup()
            hook = ConnectHook(directory: pins.path)
            try network.a.inside {
                for address in [Network.vip4, Network.vip6] {
                    try AddressManager().add(address, to: Network.nic())
                }
            }
        }

        func attach(rewrite: Bool = false) throws {
            try hook.attach(
                unit: "web@1.service", cgroupPath: cgroup.path, vips: [Network.vip4, Network.vip6],
                options: .init(rewriteWildcardBinds: rewrite))
        }

        func source(_ kind: String, to destination: String, from source: String = "", inCgroup: Bool = true) throws
            -> String
        {
            let output = try network.a.inside {
                try run(["python3", "-c", script, inCgroup ? cgroup.path : "", kind, destination, source])
            }
            return String(output.split(separator: "\n").first ?? "")
        }

        /// The source that the client sees of a datagram sent without a connection, or the sender's error.
        func datagramSource(to destination: String, from source: String = "") throws -> String {
            let etherType: UInt16 = destination.contains(":") ? 0x86dd : 0x0800
            let watch = try network.client.inside { try PacketSocket(interface: Network.nic(), etherType: etherType) }
            let printed = try self.source("sendto", to: destination, from: source)
            if !printed.isEmpty { return printed }
            while let frame = try watch.receive(milliseconds: 2000) {
                let next = etherType == 0x0800 ? frame[23] : frame[20]
                guard next == 17 else { continue }
                let bytes = etherType == 0x0800 ? frame[26..<30] : frame[22..<38]
                return VirtualAddress(bytes: Array(bytes))?.text ?? ""
            }
            return "nothing"
        }
    }

    @Test func outgoingConnectionsComeFromTheAddress() throws {
        guard mayRun() else { return }
        let fixture = try Fixture()
        let any4 = VirtualAddress(text: "0.0.0.0")!, any6 = VirtualAddress(text: "fd09::9")!
        let listeners = try fixture.network.client.inside {
            [try Socket.listening(any4, 7000), try Socket.listening(any6, 7000)]
        }
        let local = try fixture.network.a.inside { try Socket.listening(VirtualAddress(text: "127.0.0.1")!, 7000) }
        #expect(try fixture.source("tcp", to: "10.9.0.9") == "10.9.0.1", "the control has the address already")
        #expect(try fixture.source("tcp", to: "fd09::9") == "fd09::1")
        try fixture.attach()
        #expect(try fixture.source("tcp", to: "10.9.0.9") == "10.9.0.11")
        #expect(try fixture.source("tcp", to: "fd09::9") == "fd09::11")
        #expect(try fixture.source("tcp", to: "::ffff:10.9.0.9") == "::ffff:10.9.0.11")
        #expect(try fixture.source("udp", to: "10.9.0.9") == "10.9.0.11")
        #expect(try fixture.source("udp", to: "fd09::9") == "fd09::11")
        #expect(try fixture.source("tcp", to: "10.9.0.9", from: "10.9.0.1") == "10.9.0.1")
        #expect(try fixture.source("tcp", to: "fd09::9", from: "fd09::1") == "fd09::1")
        #expect(try fixture.source("late", to: "10.9.0.9", from: "10.9.0.1") == "10.9.0.1")
        #expect(try fixture.source("late", to: "fd09::9", from: "fd09::1") == "fd09::1")
        #expect(try fixture.source("tcp", to: "127.0.0.1") == "127.0.0.1")
        #expect(try fixture.source("tcp", to: "10.9.0.9", inCgroup: false) == "10.9.0.1")
        try fixture.hook.detach(unit: "web@1.service")
        try fixture.hook.detach(unit: "web@1.service")
        #expect(try fixture.source("tcp", to: "10.9.0.9") == "10.9.0.1")
        #expect(listeners.count == 2 && local.descriptor.raw >= 0)
    }

    @Test func unconnectedDatagramsComeFromTheAddress() throws {
        guard mayRun() else { return }
        let fixture = try Fixture()
        try fixture.attach()
        func observed(_ destination: String, from source: String = "") throws -> String {
            try fixture.datagramSource(to: destination, from: source)
        }
        #expect(try observed("10.9.0.9") == "10.9.0.11")
        #expect(try observed("fd09::9") == "fd09::11")
        #expect(try observed("10.9.0.9", from: "10.9.0.1") == "10.9.0.1")
        try fixture.hook.detach(unit: "web@1.service")
        #expect(try observed("10.9.0.9") == "10.9.0.1")
        #expect(try observed("fd09::9") == "fd09::1")
    }

    @Test func withoutTheAddressNothingConnects() throws {
        guard mayRun() else { return }
        let fixture = try Fixture()
        try fixture.attach()
        try fixture.network.a.inside {
            for address in [Network.vip4, Network.vip6] { try AddressManager().remove(address, from: Network.nic()) }
        }
        #expect(try fixture.source("tcp", to: "10.9.0.9") == "EADDRNOTAVAIL")
        #expect(try fixture.source("tcp", to: "fd09::9") == "EADDRNOTAVAIL")
        #expect(try fixture.source("udp", to: "10.9.0.9") == "EADDRNOTAVAIL")
        // Unconnected datagrams are not checked by the kernel: they keep the service's address or fail.
        for (destination, vip) in [("10.9.0.9", "10.9.0.11"), ("fd09::9", "fd09::11")] {
            let source = try fixture.datagramSource(to: destination)
            #expect([vip, "EINVAL", "ENETUNREACH"].contains(source), "sent from \(source)")
        }
        #expect(try fixture.source("tcp", to: "10.9.0.9", inCgroup: false) == "ECONNREFUSED")
    }

    @Test func wildcardBindsAreRewrittenOnlyOnRequest() throws {
        guard mayRun() else { return }
        let fixture = try Fixture()
        try fixture.attach()
        #expect(try fixture.source("listen", to: "0.0.0.0") == "0.0.0.0")
        #expect(try fixture.source("listen", to: "::") == "::")
        try fixture.attach(rewrite: true)
        #expect(try fixture.source("listen", to: "0.0.0.0") == "10.9.0.11")
        #expect(try fixture.source("listen6", to: "::") == "fd09::11")
        #expect(try fixture.source("listen", to: "::") == "::", "it would no longer serve the IPv4 address")
        #expect(try fixture.source("listen", to: "127.0.0.1") == "127.0.0.1")
    }

    @Test func knowsWhetherItIsAttachedToTheCgroupThatIsThere() throws {
        guard mayRun() else { return }
        let fixture = try Fixture()
        let unit = "web@1.service"
        #expect(try !fixture.hook.isAttached(unit: unit, cgroupPath: fixture.cgroup.path))
        try fixture.attach()
        try fixture.attach()
        #expect(try fixture.hook.isAttached(unit: unit, cgroupPath: fixture.cgroup.path))
        #expect(try ConnectHook(directory: fixture.pins.path).isAttached(unit: unit, cgroupPath: fixture.cgroup.path))
        try fixture.cgroup.remake()
        #expect(try !fixture.hook.isAttached(unit: unit, cgroupPath: fixture.cgroup.path))
        try fixture.attach()
        #expect(try fixture.hook.isAttached(unit: unit, cgroupPath: fixture.cgroup.path))
        try fixture.hook.detach(unit: unit)
        #expect(try !fixture.hook.isAttached(unit: unit, cgroupPath: fixture.cgroup.path))
        #expect(throws: AddressingError.self) {
            try fixture.hook.attach(unit: unit, cgroupPath: fixture.cgroup.path + "/none", vips: [])
        }
        #expect(throws: AddressingError.self) {
            try ConnectHook(directory: "/tmp").attach(unit: "mobt", cgroupPath: fixture.cgroup.path, vips: [])
        }
        _ = rmdir("/tmp/mobt")
    }

    /// Processes of the host that has the address, and are not the unit's.
    @Test func clientsOfThisHostHaveAnAddressOfItsOwn() throws {
        guard mayRun() else { return }
        let fixture = try Fixture()
        let any4 = VirtualAddress(text: "0.0.0.0")!, any6 = VirtualAddress(text: "::")!
        let listeners = try fixture.network.a.inside {
            [try Socket.listening(any6, 7000), try Socket.listening(any4, 7001)]
        }
        defer { withExtendedLifetime(listeners) {} }
        let (vip4, vip6) = (Network.vip4.text, Network.vip6.text)
        #expect(try fixture.source("tcp", to: vip4) == vip4, "without the hook")
        #expect(try fixture.source("tcp", to: vip6) == vip6, "without the hook")
        let hook = try fixture.network.a.inside {
            let hook = try ClientHook(directory: fixture.pins.path + "/clients", cgroupPath: fixture.cgroup.path)
            let (table, nic) = (try AddressManager().list(), try Network.nic())
            try hook.set(
                [Network.vip4, Network.vip6].compactMap { address in
                    table.own(beside: address, on: nic).map { (address, $0) }
                })
            return hook
        }
        for kind in ["tcp", "udp"] {
            #expect(try fixture.source(kind, to: vip4) == "10.9.0.1")
            #expect(try fixture.source(kind, to: vip6) == "fd09::1")
            #expect(try fixture.source(kind, to: "::ffff:" + vip4) == "::ffff:10.9.0.1")
            for from in [vip4, "10.9.0.1"] { #expect(try fixture.source(kind, to: vip4, from: from) == from) }
        }
        #expect(try fixture.source("late", to: vip4, from: vip4) == vip4, "who chooses his source keeps it")
        // The unit's own hook comes first.
        let unit = fixture.cgroup.path + "/unit"
        try Files.makeDirectories(unit)
        defer { _ = rmdir(unit) }
        try fixture.hook.attach(unit: "web@1.service", cgroupPath: unit, vips: [Network.vip4, Network.vip6])
        let script = Self.script
        for address in [vip4, vip6] {
            let output = try fixture.network.a.inside { try run(["python3", "-c", script, unit, "tcp", address, ""]) }
            #expect(output.hasPrefix(address))
        }
        try fixture.hook.detach(unit: "web@1.service")
        // Not in another network, whose addresses are others.
        try fixture.network.b.inside { try AddressManager().add(Network.vip4, to: Network.nic()) }
        let others = try fixture.network.b.inside { try Socket.listening(any4, 7000) }
        let output = try fixture.network.b.inside {
            try run(["python3", "-c", script, fixture.cgroup.path, "tcp", vip4, ""])
        }
        #expect(output.hasPrefix(vip4))
        withExtendedLifetime((others, hook)) {}
    }
}
