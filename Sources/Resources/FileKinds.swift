extension DescriptorKinds {
    /// Everything that is not a socket.
    static let fileKinds: [any DescriptorKind.Type] = [
        FileDescriptorKind.self, DeviceDescriptor.self, PipeDescriptor.self, MemoryFileDescriptor.self,
        EventDescriptor.self, SignalDescriptor.self, TimerDescriptor.self, EpollDescriptor.self,
        ProcessDescriptor.self,
    ]
}
