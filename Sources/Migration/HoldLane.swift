import Addressing
import Kernel
import ProcessImage

/// One virtual address of a move and its hold queue.
struct HoldLane: Sendable {
    let address: VirtualAddress
    let interface: NetworkInterface
    let queue: HoldQueue

    /// Frames of one message at the most.
    static let batch = 256

    func open() throws(AddressingError) { try queue.prepare(interface, [address]) }
    func set(_ mode: HoldMode) throws(AddressingError) { try queue.setMode(address, mode) }

    /// Everything that waits goes to this host's sockets, in order; then the address is left alone.
    func release() throws(AddressingError) {
        try queue.release(address)
        try queue.close(address)
    }

    func close() throws(AddressingError) { try queue.close(address) }

    /// Takes waiting packets out, to be sent to the other host; empty when none waits.
    func take() throws(AddressingError) -> FramesMessage? {
        let frames = try queue.drain(address, maxFrames: Self.batch)
        if frames.isEmpty { return nil }
        return FramesMessage(address: Bytes(address.mapped), frames: frames.map { Bytes($0.bytes) })
    }

    func put(_ message: FramesMessage) throws(AddressingError) {
        try queue.inject(address, message.frames.map { HeldFrame(bytes: $0.content) })
    }
}
