extension DescriptorKinds {
    /// Sockets.
    static let socketKinds: [any DescriptorKind.Type] = [
        TCPListener.self, TCPConnection.self, TCPIdle.self, UDPSocket.self, JournalSocket.self, UnixPair.self,
        UnixSocket.self, NetlinkSocket.self,
    ]
}
