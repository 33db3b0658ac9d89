import Glibc
import Kernel
import Testing

@testable import NameCheck

@Suite struct NameCheckTests {
    private let vip: [UInt8] = [10, 10, 10, 11]
    private let vip6: [UInt8] = [0xfd, 0] + [UInt8](repeating: 0, count: 13) + [0x11]
    private let six = "1.1." + String(repeating: "0.", count: 28) + "d.f.ip6.arpa"
    private var web: [UInt8] { DomainName("web.example.org")!.wire }

    private func outcomes(
        _ table: [String: Reply], _ addresses: [String] = ["10.10.10.11/24"], milliseconds: Int64 = 3000
    ) throws -> [NameFinding.Outcome] {
        let server = try SmallServer(table)
        return try NameChecker.check(
            name: "Web.Example.org.", addresses: addresses, servers: [server.address],
            deadline: .after(milliseconds: milliseconds)
        ).map(\.outcome)
    }

    @Test func matchInBothDirectionsAndFamilies() throws {
        let found = try outcomes(
            [
                "web.example.org A": .records([.init(1, [10, 10, 10, 1]), .init(1, vip)]),
                "web.example.org AAAA": .records([.init(28, vip6)]),
                "11.10.10.10.in-addr.arpa PTR": .records([.init(12, web)]), "\(six) PTR": .records([.init(12, web)]),
            ], ["10.10.10.11", "fd00::11"])
        #expect(found == [.match, .match, .match, .match])
    }

    @Test func mismatchSaysWhatWasFound() throws {
        let found = try outcomes([
            "web.example.org A": .records([.init(1, [10, 10, 10, 12])]),
            "11.10.10.10.in-addr.arpa PTR": .records([.init(12, DomainName("other.example.org")!.wire)]),
        ])
        #expect(found == [.mismatch(found: ["10.10.10.12"]), .mismatch(found: ["other.example.org"])])
    }

    @Test func absencesStayApart() throws {
        #expect(try outcomes([:]) == [.noSuchName, .noSuchName])
        #expect(
            try outcomes(["web.example.org A": .records([]), "11.10.10.10.in-addr.arpa PTR": .code(2)])
                == [.noData, .serverFailure("SERVFAIL")])
        #expect(
            try outcomes(["web.example.org A": .silence, "11.10.10.10.in-addr.arpa PTR": .code(5)], milliseconds: 300)
                == [.timeout, .timeout])
        #expect(
            try outcomes(["web.example.org A": .code(5), "11.10.10.10.in-addr.arpa PTR": .garbage], milliseconds: 300)
                == [.serverFailure("REFUSED"), .timeout])
    }

    @Test func aliasTruncationAndForgery() throws {
        let pointer: Reply = .records([.init(12, web)])
        for reply in [
            Reply.alias("host.example.org", [.init(1, vip)]), .large([.init(1, vip)]), .forgedFirst([.init(1, vip)]),
        ] {
            let found = try outcomes(["web.example.org A": reply, "11.10.10.10.in-addr.arpa PTR": pointer])
            #expect(found == [.match, .match])
        }
    }

    @Test func everyServerIsAskedAndDeadOnesAreNamed() throws {
        let good = try SmallServer([
            "web.example.org A": .records([.init(1, vip)]), "11.10.10.10.in-addr.arpa PTR": .records([.init(12, web)]),
        ])
        let closed = try InternetSocket.make(family: AF_INET, type: InternetSocket.datagram)
        try InternetSocket.bind(closed, to: SocketAddress("127.0.0.1", port: 0)!)
        let silent = try InternetSocket.localAddress(closed)!
        let findings = try NameChecker.check(
            name: "web.example.org", addresses: ["10.10.10.11"], servers: [silent, good.address],
            deadline: .after(milliseconds: 600))
        #expect(findings.map(\.verdict) == [.warned, .warned, .passed, .passed])
        #expect(findings[0].source == "\(silent)" && findings[0].outcome == .timeout)
    }

    @Test func refusedPortIsAServerFailure() throws {
        let socket = try InternetSocket.make(family: AF_INET, type: InternetSocket.datagram)
        try InternetSocket.bind(socket, to: SocketAddress("127.0.0.1", port: 0)!)
        let address = try InternetSocket.localAddress(socket)!
        close(socket.release())
        let findings = try NameChecker.check(
            name: "web.example.org", addresses: ["10.10.10.11"], servers: [address],
            deadline: .after(milliseconds: 500))
        guard case .serverFailure(let why) = findings[0].outcome else {
            Issue.record("\(findings[0])")
            return
        }
        #expect(why.contains("ECONNREFUSED"))
    }

    @Test func resolverConfigurationIsRead() throws {
        let path = "/tmp/namecheck-test-\(getpid()).conf"
        defer { unlink(path) }
        try Files.writeAtomically(
            path, "# x\nsearch example.org\nnameserver 10.0.0.1\n nameserver\tfd00::1\nnameserver x\n")
        #expect(try NameChecker.servers(resolvConf: path).map(\.description) == ["10.0.0.1:53", "[fd00::1]:53"])
        try Files.writeAtomically(path, "search example.org\n")
        #expect(try NameChecker.servers(resolvConf: path).map(\.description) == ["127.0.0.1:53"])
        #expect(throws: NameCheckError.self) { try NameChecker.servers(resolvConf: "/nonexistent") }
    }

    @Test func questionsThatCannotBeAsked() {
        #expect(throws: NameCheckError.badName("a..b")) {
            try NameChecker.check(name: "a..b", addresses: [], servers: [], deadline: .never)
        }
        #expect(throws: NameCheckError.badAddress("web")) {
            try NameChecker.check(name: "a.b", addresses: ["web"], servers: [], deadline: .never)
        }
    }
}

@Suite struct DNSMessageTests {
    private var sample: [UInt8] {
        let name = DomainName("web.example.org")!
        var bytes = DNSMessage.query(id: 0x1234, name: name, type: .a)
        bytes[2] = 0x81
        bytes[7] = 2
        bytes += [0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 7, 4] + Array("host".utf8) + [0xc0, 16]
        return bytes + [0xc0, 45, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 10, 10, 10, 11]
    }

    @Test func compressedAnswerIsRead() throws {
        let message = try DNSMessage(sample)
        #expect(message.id == 0x1234 && message.question == DomainName("WEB.example.org"))
        #expect(message.records(of: .a, for: DomainName("web.example.org")!) == [.address([10, 10, 10, 11])])
        #expect(message.answers.first?.content == .name(DomainName("host.example.org")!))
    }

    @Test func everyCutAndPointerLoopIsAnError() {
        for count in 0..<sample.count {
            #expect(throws: DNSFault.self) { try DNSMessage(Array(sample[..<count])) }
        }
        for target in [33, 34, 255] as [UInt8] {
            var bytes = sample
            bytes[34] = target
            #expect(throws: DNSFault.self) { try DNSMessage(bytes) }
        }
    }

    @Test func randomDamageIsHarmless() {
        var random = SystemRandomNumberGenerator()
        for _ in 0..<20_000 {
            var bytes = sample
            for _ in 0..<Int.random(in: 1...6, using: &random) {
                bytes[Int.random(in: 0..<bytes.count, using: &random)] = UInt8.random(in: 0...255, using: &random)
            }
            bytes.removeLast(Int.random(in: 0...10, using: &random))
            do { _ = try DNSMessage(bytes).records(of: .a, for: DomainName("web.example.org")!) } catch {}
        }
    }
}
