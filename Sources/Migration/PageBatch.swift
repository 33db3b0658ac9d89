import ProcessImage

/// Gathers page runs into messages large enough for the wire and small enough for the receiver's bound.
final class PageBatch {
    /// Bytes of content in one message: 4 MiB.
    static let limit = 4 << 20

    private var head = PagesHead(runs: [])
    private var content: [UInt8] = []
    private let send: ([UInt8]) throws(MoveError) -> Void
    private(set) var bytes: UInt64 = 0

    init(send: @escaping ([UInt8]) throws(MoveError) -> Void) { self.send = send }

    func add(_ run: PageRun, _ bytes: RawSpan) throws(MoveError) {
        if content.count + bytes.byteCount > Self.limit { try flush() }
        head.runs.append(run)
        bytes.withUnsafeBytes { content.append(contentsOf: $0) }
        self.bytes += UInt64(bytes.byteCount)
    }

    /// Wire form: length of the head (u32, little endian), the head, the content of its runs one after another.
    func flush() throws(MoveError) {
        if head.runs.isEmpty { return }
        let encoded: [UInt8]
        do { encoded = try WireEncoder.encode(head) } catch { throw MoveError(.step, "encoding pages: \(error)") }
        var payload = withUnsafeBytes(of: UInt32(encoded.count).littleEndian) { Array($0) }
        payload.reserveCapacity(4 + encoded.count + content.count)
        payload += encoded
        payload += content
        head.runs.removeAll(keepingCapacity: true)
        content.removeAll(keepingCapacity: true)
        try send(payload)
    }

    /// Takes a message apart; every length is checked against the bytes that are there.
    static func parse(
        _ payload: [UInt8], _ body: (PageRun, RawSpan) throws(MoveError) -> Void
    ) throws(MoveError) {
        guard payload.count >= 4 else { throw MoveError(.channel, "a pages message of \(payload.count) bytes") }
        let length = (0..<4).reduce(0) { $0 | Int(payload[$1]) << (8 * $1) }
        guard length <= payload.count - 4 else { throw MoveError(.channel, "a pages head of \(length) bytes") }
        let head: PagesHead
        do { head = try WireDecoder.decode(PagesHead.self, from: Array(payload[4..<4 + length])) } catch {
            throw MoveError(.channel, "malformed pages message: \(error)")
        }
        var offset = 4 + length
        for run in head.runs {
            guard run.length % 4096 == 0, run.length <= UInt64(payload.count - offset) else {
                throw MoveError(.channel, "a page run of \(run.length) bytes exceeds its message")
            }
            let end = offset + Int(run.length)
            try body(run, payload.span.bytes.extracting(offset..<end))
            offset = end
        }
        guard offset == payload.count else { throw MoveError(.channel, "bytes follow the last page run") }
    }
}
