import CKernel
import Glibc
import Kernel

/// A node that this node trusts.
public struct Peer: Hashable, Sendable {
    public let name: String
    /// Numeric IPv4 or IPv6 address.
    public let address: String
    public let port: UInt16
    let certificate: Certificate

    /// SHA-256 of the pinned certificate, lower-case hexadecimal.
    public var fingerprint: String { certificate.fingerprint }
}

/// Who this node is, and whom it trusts: one consistent reading of /etc/mobilityd.
///
/// Trust is equality with a pinned certificate. Its dates are not consulted: a host with a wrong clock must still be
/// able to give a service away, and enrolment ends by `Enrolment.removePeer`.
public struct Identity: Sendable {
    public let name: String
    /// The nodes that may connect, by name.
    public let peers: [String: Peer]
    let certificate: Certificate
    let keyPEM: [UInt8]

    /// SHA-256 of this node's certificate, lower-case hexadecimal.
    public var fingerprint: String { certificate.fingerprint }

    /// Reads key, certificate and peers below `root`.
    public static func load(root: String = "") throws(PeeringError) -> Identity {
        let paths = Enrolment.Paths(root: root)
        guard Files.exists(paths.key), Files.exists(paths.certificate) else {
            throw .enrolment(
                file: Files.exists(paths.key) ? paths.certificate : paths.key,
                why: "this node has no identity yet; create one with `mobilityctl node init`")
        }
        let certificate = try Enrolment.readCertificate(paths.certificate)
        let key: [UInt8]
        do { key = try Files.read(paths.key) } catch { throw .kernel(error) }
        try TLSSession.checkKey(key, belongsTo: certificate, file: paths.key)
        let peers = try Enrolment.peers(root: root)
        return Identity(
            name: certificate.commonName, peers: Dictionary(uniqueKeysWithValues: peers.map { ($0.name, $0) }),
            certificate: certificate, keyPEM: key)
    }
}

/// The files of enrolment. Everything here works on files alone, without the daemon.
public enum Enrolment {
    struct Paths {
        let directory: String
        var key: String { directory + "/node.key" }
        var certificate: String { directory + "/node.crt" }
        var nodes: String { directory + "/nodes" }

        init(root: String) { directory = root + "/etc/mobilityd" }

        func node(_ name: String) -> String { "\(nodes)/\(name).node" }
        func pinned(_ name: String) -> String { "\(nodes)/\(name).crt" }
    }

    /// Creates this node's key (mode 0600) and certificate. An existing identity is kept unless `force`.
    public static func createIdentity(root: String = "", name: String, force: Bool = false) throws(PeeringError) {
        let paths = Paths(root: root)
        guard NodeName.isValid(name) else { throw .enrolment(file: paths.certificate, why: NodeName.rule(name)) }
        if !force {
            for path in [paths.key, paths.certificate] where Files.exists(path) {
                throw .enrolment(
                    file: path,
                    why: "exists already; a new identity must be enrolled again on every other node, "
                        + "so it is replaced only by force")
            }
        }
        let pair = try KeyPair.generate(name: name)
        do {
            try Files.makeDirectories(paths.directory)
            try place(paths.key, pair.keyPEM, mode: 0o600, replace: force)
            try place(paths.certificate, pair.certificatePEM, mode: 0o644, replace: force)
        } catch { throw .kernel(error) }
    }

    /// Enrols node `name` at the numeric `address` with the certificate in the file `certificatePath`.
    /// An earlier enrolment of the name is replaced.
    public static func addPeer(
        root: String = "", name: String, address: String, port: UInt16 = NodeSettings.defaultPort,
        certificatePath: String
    ) throws(PeeringError) {
        let paths = Paths(root: root)
        guard NodeName.isValid(name) else { throw .enrolment(file: paths.node(name), why: NodeName.rule(name)) }
        guard port > 0, SocketAddress(address, port: port) != nil else {
            throw .enrolment(
                file: paths.node(name), why: "`\(address)` port \(port) is not a numeric address and a port")
        }
        let certificate = try readCertificate(certificatePath)
        guard certificate.commonName == name else {
            throw .enrolment(
                file: certificatePath, why: "is the certificate of node \(certificate.commonName), not of \(name)")
        }
        if Files.exists(paths.certificate), try readCertificate(paths.certificate).commonName == name {
            throw .enrolment(file: certificatePath, why: "\(name) is this node's own name")
        }
        // Encoded anew: a file that also holds a private key must not spread it.
        let pem = try certificate.pem()
        do {
            try Files.makeDirectories(paths.nodes)
            // The .node file makes the peer exist, so the certificate goes first.
            try place(paths.pinned(name), pem, mode: 0o644, replace: true)
            let text = "[Node]\nAddress=\(address)\nPort=\(port)\n"
            try place(paths.node(name), Array(text.utf8), mode: 0o644, replace: true)
        } catch { throw .kernel(error) }
    }

    /// Ends the enrolment of `name`. The certificate goes first: from then on the node is trusted no more.
    public static func removePeer(root: String = "", name: String) throws(PeeringError) {
        let paths = Paths(root: root)
        guard NodeName.isValid(name), Files.exists(paths.node(name)) || Files.exists(paths.pinned(name)) else {
            throw .enrolment(file: paths.node(name), why: "no such node is enrolled")
        }
        for path in [paths.pinned(name), paths.node(name)] where Files.exists(path) {
            do { try Files.remove(path) } catch { throw .kernel(error) }
        }
    }

    /// All enrolled nodes, sorted by name. One bad file is an error: a half-read list would look like an enrolment
    /// that was removed.
    public static func peers(root: String = "") throws(PeeringError) -> [Peer] {
        let paths = Paths(root: root)
        guard Files.exists(paths.nodes) else { return [] }
        let files: [String]
        do { files = try Files.list(paths.nodes) } catch { throw .kernel(error) }
        var peers: [Peer] = []
        for file in files where file.hasSuffix(".node") { peers.append(try readPeer(String(file.dropLast(5)), paths)) }
        return peers
    }

    private static func readPeer(_ name: String, _ paths: Paths) throws(PeeringError) -> Peer {
        let path = paths.node(name)
        guard NodeName.isValid(name) else { throw .enrolment(file: path, why: NodeName.rule(name)) }
        let file = try NodeFile.read(path, known: ["Address", "Port"])
        guard let address = try file.address("Address") else { throw file.fault(1, "Address", "is missing") }
        let certificate = try readCertificate(paths.pinned(name))
        guard certificate.commonName == name else {
            throw .enrolment(file: paths.pinned(name), why: "is the certificate of node \(certificate.commonName)")
        }
        return Peer(name: name, address: address, port: try file.port("Port"), certificate: certificate)
    }

    static func readCertificate(_ path: String) throws(PeeringError) -> Certificate {
        let pem: [UInt8]
        do { pem = try Files.read(path) } catch { throw .kernel(error) }
        return try Certificate(pem: pem, file: path)
    }

    /// Writes beside, fsyncs and puts in place in one step: by rename(2) when it may replace, else by link(2), which
    /// never overwrites. The temporary file is new, so nobody opened it before its mode was set.
    private static func place(
        _ path: String, _ bytes: [UInt8], mode: UInt32, replace: Bool
    ) throws(KernelError) {
        let temporary = path + ".new"
        if Files.exists(temporary) { try Files.remove(temporary) }
        let file = try FileDescriptor.open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode: mode)
        try file.writeAll(bytes)
        let raw = file.raw
        try systemCall("fsync", on: temporary) { fsync(raw) }
        if replace {
            try systemCall("rename", on: path) { rename(temporary, path) }
        } else {
            try systemCall("link", on: path) { link(temporary, path) }
            try Files.remove(temporary)
        }
        let slash = path.lastIndex(of: "/") ?? path.startIndex
        let directory = try FileDescriptor.open(String(path[..<slash]), O_RDONLY | O_DIRECTORY)
        let directoryRaw = directory.raw
        try systemCall("fsync", on: String(path[..<slash])) { fsync(directoryRaw) }
    }
}
