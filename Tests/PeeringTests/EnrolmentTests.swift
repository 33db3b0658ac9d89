import Glibc
import Kernel
import Testing

@testable import Peering

@Suite struct EnrolmentTests {
    @Test func identityIsCreatedOnce() throws {
        let nodes = try Nodes("a")
        let first = try nodes.identity("a")
        #expect(first.name == "a")
        var status = stat()
        #expect(stat(nodes.root("a") + "/etc/mobilityd/node.key", &status) == 0)
        #expect(status.st_mode & 0o777 == 0o600)
        #expect(throws: PeeringError.self) { try Enrolment.createIdentity(root: nodes.root("a"), name: "a") }
        #expect(try nodes.identity("a").fingerprint == first.fingerprint)
        try Enrolment.createIdentity(root: nodes.root("a"), name: "a", force: true)
        #expect(try nodes.identity("a").fingerprint != first.fingerprint)
        #expect(try Files.list(nodes.root("a") + "/etc/mobilityd") == ["node.crt", "node.key"])
    }

    @Test func peersComeAndGo() throws {
        let nodes = try Nodes("a", "b", "c")
        try nodes.enrol("b", at: "a", port: 7000)
        try nodes.enrol("c", at: "a")
        let peers = try Enrolment.peers(root: nodes.root("a"))
        #expect(peers.map(\.name) == ["b", "c"])
        #expect(peers.map(\.port) == [7000, 7413])
        #expect(peers[0].fingerprint == (try nodes.identity("b").fingerprint))
        try Enrolment.removePeer(root: nodes.root("a"), name: "b")
        #expect(try Enrolment.peers(root: nodes.root("a")).map(\.name) == ["c"])
        #expect(throws: PeeringError.self) { try Enrolment.removePeer(root: nodes.root("a"), name: "b") }
    }

    @Test func wrongPeersAreRefused() throws {
        let nodes = try Nodes("a", "b")
        func add(_ name: String, _ address: String, _ path: String) throws {
            try Enrolment.addPeer(root: nodes.root("a"), name: name, address: address, certificatePath: path)
        }
        #expect(throws: PeeringError.self) { try add("c", "10.0.0.1", nodes.certificate("b")) }
        #expect(throws: PeeringError.self) { try add("b", "b.example.org", nodes.certificate("b")) }
        #expect(throws: PeeringError.self) { try add("../b", "10.0.0.1", nodes.certificate("b")) }
        #expect(throws: PeeringError.self) { try add("a", "10.0.0.1", nodes.certificate("a")) }
        #expect(throws: PeeringError.self) { try add("b", "10.0.0.1", nodes.root("b") + "/etc/mobilityd/node.key") }
        #expect(try Enrolment.peers(root: nodes.root("a")).isEmpty)
    }

    @Test func foreignKeyIsNoticed() throws {
        let nodes = try Nodes("a", "b")
        let key = try Files.readText(nodes.root("b") + "/etc/mobilityd/node.key")
        try Files.writeAtomically(nodes.root("a") + "/etc/mobilityd/node.key", key, mode: 0o600)
        #expect(throws: PeeringError.self) { try nodes.identity("a") }
    }

    @Test(arguments: [
        ("Address=10.0.0.1\n", 1, "Address"), ("[Node]\nAddress=host\n", 2, "Address"),
        ("[Node]\nAddress=10.0.0.1\n# x\nPort=70000\n", 4, "Port"), ("[Node]\nAdress=10.0.0.1\n", 2, "Adress"),
        ("[Node]\nPort=1\nPort=2\n", 3, "Port"), ("[Peer]\n", 1, "[Peer]"), ("[Node]\nnonsense\n", 2, "nonsense"),
        ("[Node]\nPort=7413\n", 1, "Address"),
    ])
    func faultsNameFileLineAndKey(text: String, line: Int, key: String) throws {
        let nodes = try Nodes("a", "b")
        try nodes.enrol("b", at: "a")
        let path = nodes.root("a") + "/etc/mobilityd/nodes/b.node"
        try Files.writeAtomically(path, text)
        do throws(PeeringError) {
            _ = try Enrolment.peers(root: nodes.root("a"))
            Issue.record("accepted")
        } catch {
            #expect("\(error)".hasPrefix("\(path):\(line): \(key): "), "\(error)")
        }
    }

    @Test func settingsHaveDefaults() throws {
        let nodes = try Nodes("a")
        #expect(try NodeSettings.load(root: nodes.root("a")).port == 7413)
        let path = nodes.root("a") + "/etc/mobilityd/mobilityd.conf"
        try Files.writeAtomically(path, "; a comment\n[Node]\nName = n1 \nListen=10.0.0.1\nPidRangeStart=5\nPort=99\n")
        let settings = try NodeSettings.load(root: nodes.root("a"))
        #expect(settings == NodeSettings(name: "n1", listen: "10.0.0.1", port: 99))
    }
}
