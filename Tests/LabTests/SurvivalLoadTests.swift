import Glibc
import Lab
import Testing

/// Debian's nginx under load, moved again and again.
@Suite(.serialized, .survivalLab("load"))
struct SurvivalLoadTests {
    @Test func `nginx answers every request through ten moves`() throws {
        guard let lab = SurvivalLab.lab() else { return }
        let (unit, address) = ("nginx.service", "10.10.10.51")
        // A connection is closed after 20 answers: kept ones and new ones are always both there.
        for host in try [lab["a"], lab["b"]] {
            try host.write("/etc/nginx/conf.d/survival.conf", "keepalive_requests 20;\n")
        }
        try lab.annotate(unit: unit, address: address)
        try lab["a"].start(unit)
        let original = try MasterProcess(of: unit, on: lab["a"])
        let counters = try ClientCounters(lab["c"])
        let load = try lab["c"].spawn(
            Product.releaseDirectory + "/labload", "keepalive", "--host", address, "--path",
            "/index.nginx-debian.html", "--connections", "20", "--interval-ms", "20")
        defer { load.kill() }
        try waitUntil("start of labload") { load.output.contains("\"start\"") }
        for move in 0..<10 {
            let (source, destination) = move % 2 == 0 ? ("a", "b") : ("b", "a")
            try waitUntil("answers before move \(move + 1)") {
                let window = try load.loadReport("window")
                #expect(window["failed"] == 0 && window["resets"] == 0, "\(load.output.suffix(300))")
                return window["requests"] ?? 0 > 0
            }
            try lab.migrate(unit, from: source, to: destination)
            try expectArrived(unit, original, lab[destination])
            try expectLeft(unit, lab[source])
        }
        try counters.expectNone()
        let total = try load.loadReport("end")
        #expect(total["failed"] == 0 && total["resets"] == 0, "\(load.output.suffix(300))")
        #expect(total["requests"] ?? 0 > 1000 && total["reconnects"] ?? 0 > 20)
        try lab["a"].run("systemctl", "stop", unit)
    }

    @Test func `what nginx sent before it closed a connection arrives though nginx moves meanwhile`() throws {
        guard let lab = SurvivalLab.lab() else { return }
        let (unit, address, size) = ("nginx.service", "10.10.10.52", 12_000)
        for host in try [lab["a"], lab["b"]] {
            try host.write("/var/www/html/last.bin", String(repeating: "x", count: size))
        }
        try lab.annotate(unit: unit, address: address)
        try lab["a"].start(unit)
        let original = try MasterProcess(of: unit, on: lab["a"])
        let client = try lab["c"]
        let counters = try ClientCounters(client)
        // With so small a window most of the answer waits in the server's kernel when nginx closes the connection.
        let reader = try client.spawn(
            "/bin/bash", "-c",
            """
            trap go=1 USR1
            window=$(sysctl -n net.ipv4.tcp_rmem); sysctl -qw net.ipv4.tcp_rmem="4096 4096 4096"
            exec 3<>/dev/tcp/\(address)/80; sysctl -qw net.ipv4.tcp_rmem="$window"
            printf 'GET /last.bin HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n' >&3; echo asked
            until [ "$go" ]; do sleep 0.02; done
            sed '1,/^\r$/d' <&3 | wc -c
            """)
        defer { reader.kill() }
        // FIN_WAIT1, and no inode any more: proc_net_tcp(5).
        try waitUntil("nginx has closed the connection") {
            let row = "^ *[0-9]+: [0-9A-F]+:0050 [^ ]+ 04( +[^ ]+){5} +0 "
            return try lab["a"].run("grep", "-Ec", row, "/proc/net/tcp", allowFailure: true).trimmed == "1"
        }
        let move = try lab["a"].spawn("mobilityctl", "migrate", unit, "b")
        defer { move.kill() }
        try waitUntil("the move waits for the last bytes") {
            try lab["a"].journal("mobilityd").contains("waiting for the last bytes of 1 connections that \(unit)")
        }
        try reader.signal(SIGUSR1)
        #expect(try move.wait().succeeded, "\(move.output)")
        _ = try reader.wait()
        #expect(reader.output.split(separator: "\n").last.map(String.init) == "\(size)", "\(reader.output)")
        try expectArrived(unit, original, lab["b"])
        try counters.expectNone()
        try lab["b"].run("systemctl", "stop", unit)
    }
}
