import Kernel
import Peering
import ProcessImage

/// One side's view of a channel during a move: typed messages, and the other side's failures as errors.
struct Conversation: Sendable {
    let channel: Channel

    var peer: String { channel.remoteName }

    func send<Value: Encodable>(_ type: MessageType, _ value: Value) throws(MoveError) {
        let payload: [UInt8]
        do { payload = try WireEncoder.encode(value) } catch {
            throw MoveError(.step, "encoding \(type): \(error)")
        }
        try send(type, payload: payload)
    }

    func send(_ type: MessageType, payload: [UInt8] = []) throws(MoveError) {
        do throws(PeeringError) { try channel.send(type: type.rawValue, payload: payload) } catch {
            throw MoveError(.channel, "sending \(type) to node \(peer): \(error)")
        }
    }

    /// The next message, whatever it is; nil when the deadline passed first.
    func next(before deadline: Deadline) throws(MoveError) -> Message? {
        do throws(PeeringError) { return try channel.receive(deadline: deadline) } catch {
            if case .timedOut = error { return nil }
            throw MoveError(.channel, "receiving from node \(peer): \(error)")
        }
    }

    /// The next message, which must be of this type; a `failure` or `abort` becomes an error with the other side's
    /// words.
    func expect(_ type: MessageType, within milliseconds: Int64) throws(MoveError) -> Message {
        guard let message = try next(before: .after(milliseconds: milliseconds)) else {
            throw MoveError(.channel, "node \(peer) did not answer with \(type) within \(milliseconds) ms")
        }
        try Self.raiseFailure(message, from: peer)
        guard message.type == type.rawValue else {
            throw MoveError(.channel, "node \(peer) sent message type \(message.type) where \(type) was due")
        }
        return message
    }

    func expect<Value: Decodable>(
        _ type: MessageType, as value: Value.Type, within milliseconds: Int64
    ) throws(MoveError) -> Value {
        try Self.decode(value, from: try expect(type, within: milliseconds))
    }

    static func raiseFailure(_ message: Message, from peer: String) throws(MoveError) {
        guard message.type == MessageType.failure.rawValue || message.type == MessageType.abort.rawValue else { return }
        let reason = try decode(Reason.self, from: message)
        throw MoveError(.step, "on node \(peer): \(reason.problem)")
    }

    static func decode<Value: Decodable>(_ type: Value.Type, from message: Message) throws(MoveError) -> Value {
        do { return try WireDecoder.decode(type, from: message.payload) } catch {
            throw MoveError(.channel, "malformed message of type \(message.type): \(error)")
        }
    }
}
