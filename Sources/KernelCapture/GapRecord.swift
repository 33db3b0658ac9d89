import Kernel

/// A TCP connection that has received segments out of order, and waits for those before them (include/linux/tcp.h,
/// struct tcp_sock, out_of_order_queue).
public struct GapRecord: Equatable, Sendable {
    public var local: SocketName
    public var remote: SocketName
    /// The sequence number of the first byte that it lacks.
    public var next: UInt32
}

extension RecordDecoder {
    static func gaps(_ bytes: [UInt8]) throws(RecordError) -> [GapRecord] {
        var reader = RecordReader(bytes)
        var found: [GapRecord] = []
        while let header = try reader.nextRecord() {
            guard header.kind == 7 else {
                reader.skipRecord()
                continue
            }
            let next = UInt32(truncatingIfNeeded: try reader.word())
            let localPort = UInt16(truncatingIfNeeded: try reader.word())
            let remotePort = UInt16(truncatingIfNeeded: try reader.word())
            found.append(
                GapRecord(
                    local: .ip(try reader.block(16), port: localPort, family: 10),  // AF_INET6, IPv4 mapped
                    remote: .ip(try reader.block(16), port: remotePort, family: 10), next: next))
        }
        return found
    }
}
