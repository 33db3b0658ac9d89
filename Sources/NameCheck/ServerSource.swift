import CKernel
import Glibc
import Kernel

/// One name server, asked by UDP and, when the answer is cut, by TCP (RFC 1035 section 4.2, RFC 7766).
struct ServerSource: RecordSource {
    let server: SocketAddress
    /// How long one datagram is waited for before it is sent again, ms.
    var retryMilliseconds: Int64 = 1000

    var label: String { "\(server)" }

    private enum Failure: Error {
        case kernel(KernelError)
        case timeout
        case malformed
    }

    func ask(_ name: DomainName, _ type: RecordType, deadline: Deadline) -> RecordAnswer {
        do throws(Failure) {
            let id = UInt16.random(in: 0...UInt16.max)
            let query = DNSMessage.query(id: id, name: name, type: type)
            var answer = try byDatagram(query, id, name, type, deadline)
            if answer.isTruncated { answer = try byStream(query, id, name, type, deadline) }
            return judge(answer, name, type)
        } catch {
            switch error {
            case .timeout: return .timeout
            case .malformed: return .serverFailure("malformed answer")
            case .kernel(let error): return error.code == .timedOut ? .timeout : .serverFailure("\(error)")
            }
        }
    }

    private func judge(_ answer: DNSMessage, _ name: DomainName, _ type: RecordType) -> RecordAnswer {
        switch answer.responseCode {
        case 0:
            let records = answer.records(of: type, for: name)
            return records.isEmpty ? .noData : .records(records)
        case 3: return .noSuchName
        case 1: return .serverFailure("FORMERR")
        case 2: return .serverFailure("SERVFAIL")
        case 4: return .serverFailure("NOTIMP")
        case 5: return .serverFailure("REFUSED")
        default: return .serverFailure("response code \(answer.responseCode)")
        }
    }

    /// The socket is connected, so the kernel drops datagrams of others and reports an unreachable port. What does
    /// not fit the question is a forgery or late, and is passed over.
    private func byDatagram(
        _ query: [UInt8], _ id: UInt16, _ name: DomainName, _ type: RecordType, _ deadline: Deadline
    ) throws(Failure) -> DNSMessage {
        do throws(KernelError) {
            let socket = try InternetSocket.make(family: server.family, type: InternetSocket.datagram)
            try InternetSocket.connect(socket, to: server, until: deadline)
            var buffer = [UInt8](repeating: 0, count: 65_535)
            while !deadline.hasPassed {
                try transmit(socket, query)
                let attempt = min(deadline, .after(milliseconds: retryMilliseconds))
                while try Poll.wait(socket.raw, for: POLLIN, until: attempt) != nil {
                    let count = try buffer.withUnsafeMutableBufferPointer { (bytes) throws(KernelError) in
                        try InternetSocket.receive(socket, into: UnsafeMutableRawBufferPointer(bytes))
                    }
                    if let answer = fitting(Array(buffer[..<count]), id, name, type) { return answer }
                    if attempt.hasPassed { break }
                }
            }
        } catch { throw .kernel(error) }
        throw .timeout
    }

    private func fitting(_ bytes: [UInt8], _ id: UInt16, _ name: DomainName, _ type: RecordType) -> DNSMessage? {
        let message: DNSMessage
        do throws(DNSFault) { message = try DNSMessage(bytes) } catch { return nil }
        guard message.id == id else { return nil }
        // Servers that fail early may leave the question out.
        if message.question == nil { return message.responseCode == 0 ? nil : message }
        return message.question == name && message.questionType == type.rawValue ? message : nil
    }

    private func transmit(_ socket: borrowing FileDescriptor, _ bytes: [UInt8]) throws(KernelError) {
        _ = try bytes.span.bytes.withUnsafeBytes { (raw) throws(KernelError) in try InternetSocket.send(socket, raw) }
    }

    /// Each message has its length before it, 16 bits.
    private func byStream(
        _ query: [UInt8], _ id: UInt16, _ name: DomainName, _ type: RecordType, _ deadline: Deadline
    ) throws(Failure) -> DNSMessage {
        var received: [UInt8] = []
        do throws(KernelError) {
            let socket = try InternetSocket.make(family: server.family, type: InternetSocket.stream)
            try InternetSocket.connect(socket, to: server, until: deadline)
            // Fits into any empty send buffer at once.
            try transmit(socket, [UInt8(query.count >> 8), UInt8(query.count & 255)] + query)
            var buffer = [UInt8](repeating: 0, count: 16_384)
            while received.count < 2 || received.count < 2 + (Int(received[0]) << 8 | Int(received[1])) {
                guard !deadline.hasPassed, try Poll.wait(socket.raw, for: POLLIN, until: deadline) != nil else {
                    throw KernelError(call: "recv", object: "\(server)", code: .timedOut)
                }
                let count = try buffer.withUnsafeMutableBufferPointer { (bytes) throws(KernelError) in
                    try InternetSocket.receive(socket, into: UnsafeMutableRawBufferPointer(bytes))
                }
                if count == 0 { break }
                received += buffer[..<count]
            }
        } catch { throw .kernel(error) }
        guard received.count > 2, let answer = fitting(Array(received[2...]), id, name, type), !answer.isTruncated
        else { throw .malformed }
        return answer
    }
}
