import Kernel
import KernelCapture
import ProcessImage

/// What /proc and the capture module say of one descriptor of one process.
public struct DescriptorProbe: Sendable {
    public var pid: Int32
    public var number: Int32
    /// readlink of /proc/PID/fd/N, for example `socket:[4711]`, `anon_inode:[eventpoll]`, `/var/log/x (deleted)`.
    public var link: String
    public var device: UInt64
    public var inode: UInt64
    /// st_mode with type bits; 0 for anonymous inodes.
    public var mode: UInt32
    public var specialDevice: UInt64
    public var size: UInt64
    /// F_GETFL flags including access mode, and O_CLOEXEC when the descriptor has it (fdinfo `flags`).
    public var flags: Int32
    public var position: Int64
    /// The lines of /proc/PID/fdinfo/N after pos, flags, mnt_id and ino.
    public var details: [String]
    /// The kernel's `struct file`, as an identity only: equal values are one open file description.
    public var description: UInt64
    /// For sockets.
    public var socket: SocketRecord?

    public init(pid: Int32, number: Int32, link: String) {
        self.pid = pid
        self.number = number
        self.link = link
        device = 0
        inode = 0
        mode = 0
        specialDevice = 0
        size = 0
        flags = 0
        position = 0
        details = []
        description = 0
        socket = nil
    }

    public var subject: String { "pid \(pid) fd \(number) (\(link))" }
}

/// What a check may ask about the service around the descriptor.
public struct CheckContext: Sendable {
    public var unit: String
    /// 16-byte addresses, IPv4 ones mapped.
    public var virtualAddresses: [[UInt8]]
    public var carryPaths: [String]
    /// Every descriptor of every process of the unit.
    public var descriptors: [DescriptorProbe]
    /// `allow-loss`: connections that are not on a virtual address may be dropped.
    public var allowsLoss = false

    public init(unit: String, virtualAddresses: [[UInt8]], carryPaths: [String], descriptors: [DescriptorProbe]) {
        self.unit = unit
        self.virtualAddresses = virtualAddresses
        self.carryPaths = carryPaths
        self.descriptors = descriptors
    }
}

/// What a capture may use. Everything is frozen by then.
public protocol CaptureContext: AnyObject {
    var check: CheckContext { get }
    /// pidfd_getfd(2): this daemon's own descriptor of the service's open file description.
    func take(pid: Int32, number: Int32) throws(KernelError) -> FileDescriptor
    /// The description's index in the image, by its kernel identity; nil when no descriptor of the unit holds it.
    func index(ofDescription identity: UInt64) -> Int32?
    /// Index of a shared memory object for this inode, captured once.
    func sharedMemoryIndex(device: UInt64, inode: UInt64) -> Int32?
    /// SHA-256, size and mode of a file the service uses, from the cache filled before the freeze.
    func identity(path: String, ofProcess pid: Int32) throws(KernelError) -> FileIdentity
    /// Keeps a descriptor open in the daemon until the move has been committed or rolled back (a TCP socket in
    /// repair mode that must be closed silently), with what undoes the capture on a roll-back.
    func hold(_ descriptor: consuming FileDescriptor, undo: @escaping @Sendable (Int32) -> Void)
}

/// An argument of a system call that an embryo performs.
public enum EmbryoArgument: Sendable {
    case int(Int)
    /// Copied into the embryo's scratch memory; the call gets its address. A path needs its own final 0.
    case bytes([UInt8])
    /// Scratch memory of this size, zeroed; comes back in the result's `outputs`.
    case output(Int)
    /// Both: copied there before the call, and what it is afterwards comes back in the result's `outputs`.
    case exchange([UInt8])

    public static func path(_ text: String) -> EmbryoArgument { .bytes(Array(text.utf8) + [0]) }
    public static func int(_ value: Int32) -> EmbryoArgument { .int(Int(value)) }
    public static func address(_ value: UInt64) -> EmbryoArgument { .int(Int(bitPattern: UInt(value))) }
}

/// What an embryo's system call returned.
public struct EmbryoResult: Sendable {
    public var value: Int
    /// One entry for each `.output` and `.exchange` argument, in order.
    public var outputs: [[UInt8]]
    public init(value: Int, outputs: [[UInt8]]) {
        self.value = value
        self.outputs = outputs
    }
}

/// One thread of a process that is being made on the destination, and that performs system calls for us.
///
/// It has the final pid, the unit's cgroup, mounts and namespaces, but still all of root's rights.
public protocol EmbryoPort: AnyObject {
    var pid: Int32 { get }
    /// Performs system call `number` (`SYS_…`) in the embryo.
    @discardableResult
    func call(_ number: Int32, _ arguments: EmbryoArgument..., on object: String) throws(KernelError) -> EmbryoResult
    /// Our own copy of an embryo's descriptor (pidfd_getfd).
    func take(_ number: Int32) throws(KernelError) -> FileDescriptor
    /// Puts a copy of our descriptor into the embryo at the lowest free number not below `minimum`.
    func give(_ descriptor: borrowing FileDescriptor, minimum: Int32) throws(KernelError) -> Int32
}

/// What a restore may use.
public protocol RestoreContext: AnyObject {
    var unit: String { get }
    var image: ServiceImage { get }
    /// The process in which this description is made first; others get copies of it.
    func embryo(_ pid: Int32) -> (any EmbryoPort)?
    /// Our own copy of a description already made.
    func take(description index: Int32) throws(KernelError) -> FileDescriptor
    /// Our own descriptor of a shared memory object already made.
    func take(sharedMemory index: Int32) throws(KernelError) -> FileDescriptor
    /// Descriptors 1 or 2 of the arriving unit's own holder: the journal streams that systemd made.
    func takeArrival(_ number: Int32) throws(KernelError) -> FileDescriptor
    /// The unit's ids for sk_uid of sockets made in `pid`.
    func credentials(ofProcess pid: Int32) -> CredentialsImage?
    /// What one description's restore made for another.
    var parked: ParkedDescriptors { get }
    /// Nanoseconds the service has been frozen so far, for what ages by real time.
    var frozenNanoseconds: Int64 { get }
    /// Nil where the kernel does not offer it: connections find their congestion window anew.
    var congestion: CongestionModule? { get }
}

/// When, in the order of restoring, a description is made.
public enum RestoreStage: Int, CaseIterable, Sendable {
    /// Listening sockets go first: their port must be theirs before connections bind to it.
    case listeners
    case ordinary
    /// Established connections.
    case connections
}

/// One kind of open file description: its check, its capture and its restore side by side.
public protocol DescriptorKind: SendableMetatype {
    /// Registered name, `DescriptionImage.kind`.
    static var name: String { get }
    static var stage: RestoreStage { get }
    /// True for the descriptors this kind is about; kinds are asked in the order of `DescriptorKinds.all`.
    static func recognises(_ probe: DescriptorProbe) -> Bool
    /// What of this descriptor cannot be carried; nothing is changed.
    static func check(_ probe: DescriptorProbe, in context: CheckContext) -> [Refusal]
    /// The kind's record. The service is frozen.
    static func capture(_ probe: DescriptorProbe, in context: any CaptureContext) throws(ResourceError) -> Bytes
    /// Makes the description in `embryo` and returns its temporary number there.
    static func restore(
        _ description: DescriptionImage, index: Int32, in embryo: any EmbryoPort, context: any RestoreContext
    ) throws(ResourceError) -> Int32
    /// The same for several descriptions of the image at once, in order.
    static func restoreAll(
        _ indices: [Int32], in embryo: any EmbryoPort, context: any RestoreContext
    ) throws(ResourceError) -> [Int32]
    /// A second pass when every descriptor of every process is at its number (epoll sets, peers).
    static func connect(
        _ description: DescriptionImage, index: Int32, number: Int32, in embryo: any EmbryoPort,
        context: any RestoreContext
    ) throws(ResourceError)
    /// Whether `activate` does anything.
    static var isActivated: Bool { get }
    /// The last act before the service runs again, on the destination (leave TCP repair mode). Nothing happens to what
    /// has had it already: a daemon that ended in the middle of it does not know how far it came.
    static func activate(
        _ description: DescriptionImage, index: Int32, context: any RestoreContext
    ) throws(ResourceError)
}

extension DescriptorKind {
    public static var stage: RestoreStage { .ordinary }
    public static var isActivated: Bool { false }
    public static func restoreAll(
        _ indices: [Int32], in embryo: any EmbryoPort, context: any RestoreContext
    ) throws(ResourceError) -> [Int32] {
        var numbers: [Int32] = []
        for index in indices {
            let description = context.image.descriptions[Int(index)]
            numbers.append(try restore(description, index: index, in: embryo, context: context))
        }
        return numbers
    }
    public static func connect(
        _ description: DescriptionImage, index: Int32, number: Int32, in embryo: any EmbryoPort,
        context: any RestoreContext
    ) throws(ResourceError) {}
    public static func activate(
        _ description: DescriptionImage, index: Int32, context: any RestoreContext
    ) throws(ResourceError) {}
}

/// Encodes and decodes a kind's record with errors that name the resource.
public enum Payload {
    public static func encode<Value: Encodable>(_ value: Value, for subject: String) throws(ResourceError) -> Bytes {
        do { return Bytes(try WireEncoder.encode(value)) } catch {
            throw ResourceError(subject, "cannot encode: \(error)")
        }
    }

    public static func decode<Value: Decodable>(
        _ type: Value.Type, from description: DescriptionImage, index: Int32
    ) throws(ResourceError) -> Value {
        do { return try WireDecoder.decode(type, from: description.payload.content) } catch {
            throw ResourceError("description \(index) (\(description.kind))", "malformed record: \(error)")
        }
    }
}
