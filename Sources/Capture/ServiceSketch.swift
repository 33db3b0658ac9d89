import ProcessImage

/// What the destination has to know before anything is frozen, to prepare embryos and to judge whether it can.
public struct ServiceSketch: Codable, Sendable {
    public var unit: String
    /// Parents before children.
    public var processes: [ProcessSketch] = []
    /// Files that are mapped, and regular files that are open, each path once. Those that are being written to have no
    /// digest: they only have to be there.
    public var files: [FileIdentity] = []
    /// Union of all mappings of all processes, without the vsyscall page: an embryo's loop goes elsewhere.
    public var lowestAddress: UInt64 = 0
    public var highestAddress: UInt64 = 0
    public var vdsoDigest = Bytes()
    /// Highest descriptor number of any process.
    public var highestDescriptor: Int32 = 0
    public var listeners: [ListenerSketch] = []
    /// Files of shared memory, which must not be there yet.
    public var sharedMemoryFiles: [String] = []
    /// XCR0 and size of the standard xsave area.
    public var xsaveComponents: UInt64 = 0
    public var xsaveSize: UInt32 = 0
    public var clocks = ClockImage()
    public init(unit: String) { self.unit = unit }
}

public struct ProcessSketch: Codable, Sendable {
    public var pid: Int32
    public var parent: Int32
    public var group: Int32
    public var session: Int32
    /// The leader first.
    public var threads: [Int32]
    public var executable: FileIdentity
    public var workingDirectory: String
    public var rootDirectory: String
    public var credentials: CredentialsImage
    public var mappings: [MappingSketch] = []
}

/// One mapping's place; what is in it is told later.
public struct MappingSketch: Codable, Sendable {
    public var start: UInt64
    public var end: UInt64
    public var name: String
}

public struct ListenerSketch: Codable, Hashable, Sendable {
    /// AF_…, SOCK_…, IPPROTO_….
    public var family: UInt16
    public var type: UInt16
    public var protocolNumber: UInt16
    /// 16 bytes, IPv4 mapped; empty for unix.
    public var address: Bytes
    public var port: UInt16
    /// Unix: bound name, first byte 0 for an abstract one.
    public var name: Bytes
}
