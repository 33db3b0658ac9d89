import Addressing
import Kernel
import ProcessImage
import Synchronization

/// One virtual address of a move and its hold queue.
struct HoldLane: Sendable {
    let address: VirtualAddress
    let interface: NetworkInterface
    let queue: HoldQueue
    private let sent = SentFrames()

    init(address: VirtualAddress, interface: NetworkInterface, queue: HoldQueue) {
        self.address = address
        self.interface = interface
        self.queue = queue
    }

    /// Frames of one message at the most.
    static let batch = 256

    func open() throws(AddressingError) { try queue.prepare(interface, [address]) }
    func set(_ mode: HoldMode) throws(AddressingError) { try queue.setMode(address, mode) }

    /// Everything that waits goes to this host's sockets, in order, first what was sent to a host that did not want it;
    /// then the address is left alone.
    func release() throws(AddressingError) {
        let frames = sent.take()
        if !frames.isEmpty {
            // What the service answers is to be heard.
            try queue.setMode(address, [.hold])
            try queue.inject(address, frames)
        }
        try queue.release(address)
        try queue.close(address)
    }

    func close() throws(AddressingError) { try queue.close(address) }

    /// Takes waiting packets out, to be sent to the other host; empty when none waits.
    ///
    /// - Parameter keepingCopies: until `forgetSent`, for a host that has yet to say that it took the service.
    func take(keepingCopies: Bool = false) throws(AddressingError) -> FramesMessage? {
        let frames = try queue.drain(address, maxFrames: Self.batch)
        if frames.isEmpty { return nil }
        if keepingCopies { sent.append(frames) }
        return FramesMessage(address: Bytes(address.mapped), frames: frames.map { Bytes($0.bytes) })
    }

    /// The other host has the service: what was sent to it is its.
    func forgetSent() { _ = sent.take() }

    func put(_ message: FramesMessage) throws(AddressingError) {
        try queue.inject(address, message.frames.map { HeldFrame(bytes: $0.content) })
    }
}

/// What was taken out of a lane for a host that may yet turn out not to have the service.
private final class SentFrames: Sendable {
    /// More than this is left to its senders, who repeat it; bytes.
    private static let limit = 64 << 20
    private let state = Mutex<(frames: [HeldFrame], bytes: Int)>(([], 0))

    func append(_ frames: [HeldFrame]) {
        state.withLock { state in
            for frame in frames where state.bytes + frame.bytes.count <= Self.limit {
                state.frames.append(frame)
                state.bytes += frame.bytes.count
            }
        }
    }

    func take() -> [HeldFrame] {
        state.withLock { state in
            defer { state = ([], 0) }
            return state.frames
        }
    }
}

extension [HoldLane] {
    /// The addresses and their interfaces.
    var places: [(VirtualAddress, NetworkInterface)] { map { ($0.address, $0.interface) } }
}
