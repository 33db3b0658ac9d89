extension DescriptorKinds {
    /// Everything that is not a socket.
    static let fileKinds: [any DescriptorKind.Type] = []
}
