import Glibc
import Kernel

/// The datagrams that wait in the UDP sockets of a frozen service. They are read in place, and go to the destination
/// as packets, ahead of those that were held.
public enum WaitingDatagrams {
    /// In the order of each socket's queue, with the address and port that each was sent to.
    public static func read(
        _ descriptors: [DescriptorProbe]
    ) throws(ResourceError) -> [(datagram: Socket.Datagram, destination: SocketName)] {
        var found: [(datagram: Socket.Datagram, destination: SocketName)] = []
        var seen: Set<UInt64> = []
        for probe in descriptors where UDPSocket.recognises(probe) && seen.insert(probe.inode).inserted {
            guard let socket = probe.socket, socket.localPort != 0 else { continue }
            let datagrams = try step(probe.subject, "cannot be read") { () throws(KernelError) in
                try peekAll(try ProcessDescriptors.take(pid: probe.pid, number: probe.number), socket.family)
            }
            for datagram in datagrams {
                let address = datagram.destination ?? socket.localAddress
                found.append(
                    (
                        datagram,
                        .ip(address, port: socket.localPort, family: isMapped(address) ? AF_INET : AF_INET6)
                    ))
            }
        }
        return found
    }

    private static func isMapped(_ address: [UInt8]) -> Bool {
        SocketName.ip(address, port: 0, family: AF_INET6).ipv4Bytes != nil
    }

    /// Peeks from the front to the end of the queue, socket(7) SO_PEEK_OFF; the socket's options are left as they were.
    private static func peekAll(
        _ socket: borrowing FileDescriptor, _ family: UInt16
    ) throws(KernelError) -> [Socket.Datagram] {
        // Most queues are empty, and nothing need be changed to see it. Not by a peek: the kernel takes an empty
        // datagram that was looked at for one already passed (net/core/datagram.c, __skb_try_recv_from_queue).
        guard try Pipe.poll(socket, POLLIN) & POLLIN != 0 else { return [] }
        // IP_PKTINFO, IPV6_RECVPKTINFO; a socket for both families tells IPv4 addresses mapped.
        let (level, name): (Int32, Int32) = Int32(family) == AF_INET ? (0, 8) : (41, 49)
        let offset = try Socket.integer(socket, SocketOption.socket, SocketOption.peekOffset)
        let information = try Socket.integer(socket, level, name)
        try Socket.setInteger(socket, level, name, 1)
        try Socket.setInteger(socket, SocketOption.socket, SocketOption.peekOffset, 0)
        var datagrams: [Socket.Datagram] = []
        let result: Result<Void, KernelError>
        do throws(KernelError) {
            while let datagram = try Socket.peekDatagram(socket) { datagrams.append(datagram) }
            result = .success(())
        } catch {
            result = .failure(error)
        }
        try Socket.setInteger(socket, SocketOption.socket, SocketOption.peekOffset, offset)
        try Socket.setInteger(socket, level, name, information)
        try result.get()
        return datagrams
    }
}
