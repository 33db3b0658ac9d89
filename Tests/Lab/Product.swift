import Glibc
import Kernel

/// What is installed into the hosts of a lab.
public enum Product: Sendable {
    /// Nothing: hosts with plain systemd.
    case none
    /// The programs that lie beside the running one, installed by `make install`.
    case built
    /// The release programs of `make build`, wherever the running program lies: what tests move services with.
    case release
    /// A tree that `make install DESTDIR=…` made before.
    case tree(String)

    /// The repository, found from where this file was compiled.
    public static let repository: String = {
        let parts = #filePath.split(separator: "/").dropLast(3)
        return "/" + parts.joined(separator: "/")
    }()

    /// The installed tree, or nil for none.
    func installedTree(_ paths: LabPaths) throws -> String? {
        switch self {
        case .none: return nil
        case .tree(let path): return path
        case .built:
            let program = try Files.readLink("/proc/self/exe")
            return try install(from: "/" + program.split(separator: "/").dropLast().joined(separator: "/"), paths)
        case .release:
            return try install(from: Self.releaseDirectory, paths)
        }
    }

    /// Where `make build` leaves its programs.
    public static var releaseDirectory: String { repository + "/.build/release" }

    private func install(from build: String, _ paths: LabPaths) throws -> String {
        guard Files.exists(build + "/mobilityd") else {
            throw LabError("no mobilityd in \(build): build it first (make build), or use a bare lab")
        }
        let tree = paths.directory + "/product"
        try Subprocess.run(
            ["/usr/bin/make", "-s", "-C", Self.repository, "install", "BUILD=\(build)", "DESTDIR=\(tree)"])
        return tree
    }

    /// Copies the tree into each stage, configures the nodes and enrols every one with every other.
    static func install(_ tree: String, into stages: [(member: LabMember, stage: HostStage)]) throws {
        let ctl = tree + "/usr/bin/mobilityctl"
        for (member, stage) in stages {
            try Subprocess.run(["/bin/cp", "-a", "--no-preserve=ownership", tree + "/.", stage.root + "/"])
            try stage.write(
                "/etc/mobilityd/mobilityd.conf",
                """
                [Node]
                Name=\(member.name)
                Listen=\(member.address)
                PidRangeStart=\(member.pidRangeStart)

                """)
            try Files.makeDirectories(stage.root + "/etc/mobilityd/nodes")
            try stage.want("mobilityd.service", by: "lab.target")
            if Files.exists(stage.root + "/usr/lib/systemd/system/mobility-pids.service") {
                try stage.want("mobility-pids.service", by: "sysinit.target")
            }
            try Subprocess.run([ctl, "node", "init", "--name", member.name, "--root", stage.root])
        }
        for (member, stage) in stages {
            for (peer, peerStage) in stages where peer.name != member.name {
                try Subprocess.run([
                    ctl, "node", "add", peer.name, peer.address, peerStage.root + "/etc/mobilityd/node.crt",
                    "--root", stage.root,
                ])
            }
        }
    }
}
