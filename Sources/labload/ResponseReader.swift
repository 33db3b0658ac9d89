/// Reads one HTTP/1.1 response with a Content-Length, RFC 9112, piece by piece.
struct ResponseReader {
    enum Progress: Equatable {
        case more
        /// The whole body has arrived.
        case complete
        case broken(String)
    }

    private var head: [UInt8] = []
    private var headDone = false
    private(set) var status = 0
    private(set) var contentLength = 0
    private(set) var received = 0
    /// The server will close the connection behind this response.
    private(set) var closes = false
    private let limit = 16384

    /// Takes what has been read; hands the body's bytes on.
    mutating func consume(_ bytes: ArraySlice<UInt8>, body: (ArraySlice<UInt8>) -> Void = { _ in }) -> Progress {
        var rest = bytes
        if !headDone {
            while let byte = rest.popFirst() {
                head.append(byte)
                if byte == 10, head.suffix(4) == [13, 10, 13, 10] {
                    headDone = true
                    break
                }
                if head.count > limit { return .broken("a head of more than \(limit) bytes") }
            }
            guard headDone else { return .more }
            if let why = parseHead() { return .broken(why) }
        }
        body(rest.prefix(contentLength - received))
        received += rest.count
        if received > contentLength { return .broken("\(received - contentLength) bytes behind the body") }
        return received == contentLength ? .complete : .more
    }

    private mutating func parseHead() -> String? {
        // UTF-8 of CR LF is one Character: split bytes, not characters.
        let lines = head.split(separator: 10).map { String(decoding: $0.filter { $0 != 13 }, as: UTF8.self) }
        let words = (lines.first ?? "").split(separator: " ")
        guard words.count >= 2, words[0] == "HTTP/1.1", let code = Int(words[1]) else {
            return "not HTTP/1.1: \(lines.first ?? "")"
        }
        status = code
        var length: Int?
        for line in lines.dropFirst() {
            guard let colon = line.firstIndex(of: ":") else { continue }
            let value = line[line.index(after: colon)...].drop { $0 == " " }
            switch line[..<colon].lowercased() {
            case "content-length": length = Int(value)
            case "connection": closes = value.lowercased() == "close"
            default: break
            }
        }
        guard let length else { return "a response without Content-Length" }
        contentLength = length
        return nil
    }
}
