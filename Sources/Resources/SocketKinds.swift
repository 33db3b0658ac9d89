extension DescriptorKinds {
    /// Sockets.
    static let socketKinds: [any DescriptorKind.Type] = [
        TCPListener.self, TCPConnection.self,
    ]
}
