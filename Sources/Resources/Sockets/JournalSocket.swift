import CKernel
import Glibc
import Kernel
import KernelCapture
import ProcessImage

/// The unit's connection to its own host's journal: the stream that systemd made for standard output or error, or a
/// datagram socket connected to a log socket.
enum JournalSocket: DescriptorKind {
    struct Record: Codable {
        /// Descriptor 1 or 2 of the arriving unit for a stream, 0 for a datagram socket.
        var arrival: Int32
        var type: Int32
        var path: String
        var settings: SocketSettings
    }
    static let name = "unix-journal"
    private static let streamPaths = ["/run/systemd/journal/stdout"]
    private static let datagramPaths = [
        "/dev/log", "/run/systemd/journal/dev-log", "/run/systemd/journal/socket", "/run/systemd/journal/syslog",
    ]

    static func recognises(_ probe: DescriptorProbe) -> Bool {
        guard UnixDomain.isConnected(probe), let path = UnixDomain.peerName(probe)?.unixPath else { return false }
        return probe.socket?.type == UnixDomain.stream ? streamPaths.contains(path) : datagramPaths.contains(path)
    }

    static func check(_ probe: DescriptorProbe, in context: CheckContext) -> [Refusal] { [] }

    static func capture(_ probe: DescriptorProbe, in context: any CaptureContext) throws(ResourceError) -> Bytes {
        let subject = "\(probe.subject) (journal)"
        let socket = try step(subject, "cannot be taken") { () throws(KernelError) in
            try context.take(pid: probe.pid, number: probe.number)
        }
        let isStream = probe.socket?.type == UnixDomain.stream
        let settings = try SocketSettings.capture(socket, SocketOption.common, subject: subject)
        let record = try step(subject, "cannot be read") { () throws(KernelError) in
            Record(
                arrival: isStream ? (probe.number == 2 ? 2 : 1) : 0, type: Int32(probe.socket?.type ?? 1),
                path: try Socket.remoteAddress(socket).unixPath ?? "", settings: settings)
        }
        return try Payload.encode(record, for: subject)
    }

    static func restore(
        _ description: DescriptionImage, index: Int32, in embryo: any EmbryoPort, context: any RestoreContext
    ) throws(ResourceError) -> Int32 {
        let record = try Payload.decode(Record.self, from: description, index: index)
        return try step("pid \(embryo.pid) \(record.path)", "cannot be connected") { () throws(KernelError) in
            if record.arrival != 0 {
                return try embryo.give(try context.takeArrival(record.arrival), minimum: 0)
            }
            let number = try SocketMaker.make(AF_UNIX, record.type, 0, in: embryo, context: context)
            let address = SocketName.unix(Array(record.path.utf8))
            try embryo.call(
                SYS_connect, .int(number), .bytes(address.bytes), .int(address.bytes.count), on: record.path)
            let socket = try embryo.take(number)
            try record.settings.late.apply(to: socket)
            try record.settings.applyBuffers(to: socket)
            try Socket.setStatusFlags(socket, description.statusFlags)
            return number
        }
    }
}
