import Kernel
import KernelCapture

/// Repair mode that outlived the daemon which had switched it on.
public enum RepairMode {
    /// Switches repair mode off in every TCP socket among the descriptors; `probing` sends the window probe that sets
    /// a restored connection going, else nothing is sent. Returns what went wrong, one line a socket.
    public static func end(in files: [FileRecord], probing: Bool) -> [String] {
        var problems: [String] = []
        var seen: Set<UInt64> = []
        for file in files {
            // SOCK_STREAM and IPPROTO_TCP of AF_INET and AF_INET6; a description may be shared by processes.
            guard let socket = file.socket, [2, 10].contains(socket.family), socket.type == 1,
                [0, 6].contains(socket.protocolNumber), seen.insert(file.description).inserted
            else { continue }
            do throws(KernelError) {
                let own = try Pidfd(pid: file.pid).take(file.number)
                guard try TCP.get(own, TCP.repair) != 0 else { continue }
                try TCP.set(own, TCP.repair, probing ? TCP.off : TCP.offSilently)
            } catch {
                problems.append("pid \(file.pid) fd \(file.number): \(error)")
            }
        }
        return problems
    }
}
