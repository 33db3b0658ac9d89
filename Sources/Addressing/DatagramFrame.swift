import Kernel

extension HeldFrame {
    /// The packets of a datagram that waits in a socket, as the hold queue would have caught them: for the host to
    /// which the socket moves. What UDP's offload has joined comes apart again.
    public static func packets(of datagram: Socket.Datagram, to destination: SocketName) -> [HeldFrame] {
        let size = datagram.segmentSize ?? 0
        guard size > 0, datagram.bytes.count > size else {
            return [packet(datagram.bytes, from: datagram.source, to: destination)]
        }
        return stride(from: 0, to: datagram.bytes.count, by: size).map { start in
            let piece = Array(datagram.bytes[start..<min(start + size, datagram.bytes.count)])
            return packet(piece, from: datagram.source, to: destination)
        }
    }

    /// UDP, RFC 768, in one IP packet, however long: it meets no wire.
    private static func packet(_ payload: [UInt8], from source: SocketName, to destination: SocketName) -> HeldFrame {
        let isIPv4 = destination.ipv4Bytes != nil
        let from = source.ipv4Bytes ?? source.address
        let to = destination.ipv4Bytes ?? destination.address
        let length = UInt16(truncatingIfNeeded: 8 + payload.count)
        var header = big(source.port) + big(destination.port) + big(length) + [0, 0]
        let pseudo = from + to + (isIPv4 ? [0, 17] + big(length) : big(UInt32(length)) + [0, 0, 0, 17])
        // A sum of 0 is sent as all ones: 0 means that there is none.
        let sum = InternetChecksum.of(pseudo + header + payload)
        header.replaceSubrange(6..<8, with: big(sum == 0 ? 0xffff : sum))
        // Hardware addresses are put in where the frame is; type, then what is behind it.
        let ethernet = [UInt8](repeating: 0, count: 12) + big(UInt16(isIPv4 ? 0x0800 : 0x86dd))
        let network: [UInt8]
        if isIPv4 {
            var ip = [0x45, 0] + big(20 + length) + [0, 0, 0x40, 0, 64, 17, 0, 0] + from + to
            ip.replaceSubrange(10..<12, with: big(InternetChecksum.of(ip)))
            network = ip
        } else {
            network = [0x60, 0, 0, 0] + big(length) + [17, 64] + from + to
        }
        let offload = [UInt8](repeating: 0, count: TapDevice.headerLength)
        return HeldFrame(bytes: offload + ethernet + network + header + payload)
    }

    private static func big<Value: FixedWidthInteger>(_ value: Value) -> [UInt8] {
        withUnsafeBytes(of: value.bigEndian) { Array($0) }
    }
}
