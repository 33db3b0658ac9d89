import CKernel
import Clocks
import Glibc
import Kernel
import KernelCapture
import ProcessImage
import Resources

/// Finds out what a running unit consists of and whether it can move, without stopping or changing anything.
public final class ServiceInspector {
    public let unit: String
    public let cgroup: Cgroup
    public let virtualAddresses: [[UInt8]]
    public let carryPaths: [String]
    public let allowsLoss: Bool
    public let digests: FileDigests
    let module: CaptureModule

    /// `virtualAddresses` are 16 bytes each, IPv4 mapped.
    public init(
        unit: String, cgroup: Cgroup, virtualAddresses: [[UInt8]], carryPaths: [String], allowsLoss: Bool = false,
        module: CaptureModule, digests: FileDigests
    ) {
        self.unit = unit
        self.cgroup = cgroup
        self.virtualAddresses = virtualAddresses
        self.carryPaths = carryPaths
        self.allowsLoss = allowsLoss
        self.module = module
        self.digests = digests
    }

    /// All processes as they are now.
    public func snapshot() throws(ResourceError) -> ServiceSnapshot {
        do { return try ServiceSnapshot.read(cgroup, module: module) } catch {
            throw ResourceError("unit \(unit)", "cannot look at its processes: \(error)", cause: error as? KernelError)
        }
    }

    func context(_ snapshot: ServiceSnapshot) -> CheckContext {
        var context = CheckContext(
            unit: unit, virtualAddresses: virtualAddresses, carryPaths: carryPaths, descriptors: snapshot.descriptors)
        context.allowsLoss = allowsLoss
        return context
    }

    /// Everything of the unit that cannot be carried; empty when it can move.
    public func check() throws(ResourceError) -> [Refusal] { check(try snapshot()) }

    public func check(_ snapshot: ServiceSnapshot) -> [Refusal] {
        let context = context(snapshot)
        var refusals = ProcessChecks.check(snapshot)
        var seen: Set<UInt64> = []
        for probe in snapshot.descriptors where seen.insert(probe.description).inserted {
            refusals += DescriptorKinds.check(probe, in: context)
        }
        for mapping in snapshot.processes.flatMap(\.mappings) where mapping.name != "[vsyscall]" {
            refusals += MemoryKinds.check(mapping, in: context)
        }
        return refusals
    }

    /// What the destination needs before the freeze. Computes and remembers the digests of the files.
    public func sketch() throws(ResourceError) -> ServiceSketch { try sketch(try snapshot()) }

    public func sketch(_ snapshot: ServiceSnapshot) throws(ResourceError) -> ServiceSketch {
        var sketch = ServiceSketch(unit: unit)
        sketch.xsaveComponents = ExtendedState.current.enabled
        sketch.xsaveSize = UInt32(ExtendedState.current.standardSize)
        var files: [String: FileIdentity] = [:]
        sketch.lowestAddress = UInt64.max
        do throws(KernelError) {
            for process in snapshot.processes where !process.isZombie {
                let leader = process.leader
                let executable = try digests.identity(path: process.executable, opened: "/proc/\(process.pid)/exe")
                var entry = ProcessSketch(
                    pid: process.pid, parent: leader.parent, group: leader.group, session: leader.session,
                    threads: process.task.threads.map(\.tid), executable: executable,
                    workingDirectory: process.workingDirectory, rootDirectory: process.rootDirectory,
                    credentials: leader.credentials)
                for mapping in process.mappings where mapping.name != "[vsyscall]" {
                    entry.mappings.append(MappingSketch(start: mapping.start, end: mapping.end, name: mapping.name))
                    sketch.lowestAddress = min(sketch.lowestAddress, mapping.start)
                    sketch.highestAddress = max(sketch.highestAddress, mapping.end)
                    try addFile(mapping, &files)
                }
                sketch.processes.append(entry)
                try addOpenFiles(process, &files)
            }
            if let first = sketch.processes.first {
                sketch.clocks = try ServiceClocks.read(pid: first.pid)
                let mappings = snapshot.processes.first { $0.pid == first.pid }?.mappings ?? []
                sketch.vdsoDigest = try Self.vdsoDigest(mappings)
            }
        } catch {
            throw ResourceError("unit \(unit)", "cannot describe it", cause: error)
        }
        sketch.files = files.values.sorted { $0.path < $1.path }
        sketch.listeners = Self.listeners(snapshot)
        let names = snapshot.processes.flatMap(\.mappings).map(\.name) + snapshot.descriptors.map(\.link)
        if names.contains(where: SharedMemoryFiles.contains) {
            sketch.sharedMemoryFiles = Set(snapshot.processes.flatMap { SharedMemoryUse.paths(of: $0.pid) }).sorted()
        }
        sketch.highestDescriptor = snapshot.descriptors.map(\.number).max() ?? 0
        return sketch
    }

    /// A mapped file is opened through map_files, which finds it in whatever mount namespace and under whatever name.
    private func addFile(_ mapping: VMAProbe, _ files: inout [String: FileIdentity]) throws(KernelError) {
        guard mapping.name.hasPrefix("/"), files[mapping.name] == nil, !mapping.name.hasSuffix(" (deleted)"),
            !SharedMemoryFiles.contains(mapping.name)
        else { return }
        let range = "\(String(mapping.start, radix: 16))-\(String(mapping.end, radix: 16))"
        let isStable = mapping.protection & PROT_WRITE == 0 || !mapping.isShared
        do throws(KernelError) {
            files[mapping.name] = try digests.identity(
                path: mapping.name, opened: "/proc/\(mapping.pid)/map_files/\(range)", digesting: isStable)
        } catch  where error.code == .noEntry {
            // Unmapped since the snapshot.
        }
    }

    private func addOpenFiles(
        _ process: ProcessSnapshot, _ files: inout [String: FileIdentity]
    ) throws(KernelError) {
        for probe in process.descriptors {
            guard FileDescriptorKind.needsEqualFile(probe), files[probe.link] == nil else { continue }
            let opened = "/proc/\(probe.pid)/fd/\(probe.number)"
            do throws(KernelError) {
                let isStable = probe.flags & O_ACCMODE == O_RDONLY || !Self.wasWrittenLately(opened)
                files[probe.link] = try digests.identity(path: probe.link, opened: opened, digesting: isStable)
            } catch  where error.code == .noEntry {
                // Closed since the snapshot.
            }
        }
    }

    /// Whether a file was changed in the last ten seconds: it may differ at any moment from what was compared.
    private static func wasWrittenLately(_ path: String) -> Bool {
        var status = stat()
        guard stat(path, &status) == 0 else { return true }
        return Int64(status.st_mtim.tv_sec) + 10 > Clock.realtime / 1_000_000_000
    }

    /// SHA-256 of the vdso's text as this process sees it; empty without a vdso.
    static func vdsoDigest(_ mappings: [VMAProbe]) throws(KernelError) -> Bytes {
        guard let vdso = mappings.first(where: { $0.name == "[vdso]" }) else { return Bytes() }
        let text = try ProcessMemory.read(pid: vdso.pid, address: vdso.start, count: Int(vdso.end - vdso.start))
        return Bytes(SHA256.digest(text))
    }

    private static func listeners(_ snapshot: ServiceSnapshot) -> [ListenerSketch] {
        var result: Set<ListenerSketch> = []
        for probe in snapshot.descriptors {
            guard let socket = probe.socket else { continue }
            // TCP_LISTEN; a bound datagram socket answers as well.
            let isBoundDatagram = socket.type == 2 && socket.localPort != 0 && socket.remotePort == 0
            guard socket.state == 10 || isBoundDatagram else { continue }
            result.insert(
                ListenerSketch(
                    family: socket.family, type: socket.type, protocolNumber: socket.protocolNumber,
                    address: Bytes(socket.localAddress), port: socket.localPort, name: Bytes(socket.unixName)))
        }
        return result.sorted { ($0.family, $0.port) < ($1.family, $1.port) }
    }
}
