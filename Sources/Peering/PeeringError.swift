import Kernel

/// What went wrong between two nodes, with the remedy where a person can apply one.
public enum PeeringError: Error, Equatable, Sendable, CustomStringConvertible {
    /// A system call on the channel's socket failed.
    case kernel(KernelError)
    /// OpenSSL refused `operation`; `reason` is its own text.
    case tls(operation: String, reason: String)
    /// The other end's certificate is not the pinned one; nothing was said to it.
    case untrustedCertificate(expected: String, fingerprint: String)
    /// The other end ended the handshake because it does not know this node's certificate.
    case notEnrolledThere(peer: String, alert: String)
    /// `what` did not finish before its deadline.
    case timedOut(what: String)
    /// The other end closed the channel in order.
    case closedByPeer
    /// The connection ended without TLS's close_notify: cut wire, killed process or an attacker.
    case truncated
    /// This end closed the channel.
    case closed
    /// The bytes of a frame break the protocol; `FrameViolation` says how.
    case frame(FrameViolation)
    /// A payload longer than its type's limit was handed to `send`.
    case payloadTooLong(type: UInt16, length: Int, limit: Int)
    /// The Hello message is malformed.
    case malformedHello(String)
    /// No protocol version is spoken by both ends.
    case incompatible(peer: String, ours: ClosedRange<UInt16>, theirs: ClosedRange<UInt16>)
    /// The name in Hello is not the name of the certificate.
    case nameMismatch(certificate: String, hello: String)
    /// A configuration file is wrong: `file:line: key: why`.
    case configuration(file: String, line: Int, key: String, why: String)
    /// A file of the enrolment is missing or does not hold what it should.
    case enrolment(file: String, why: String)

    public var description: String {
        switch self {
        case .kernel(let error): return "\(error)"
        case .tls(let operation, let reason): return "TLS \(operation): \(reason)"
        case .untrustedCertificate(let expected, let fingerprint):
            return "certificate with SHA-256 \(fingerprint) is not that of \(expected); "
                + "enrol the node with `mobilityctl node add` if it should be trusted"
        case .notEnrolledThere(let peer, let alert):
            return "node \(peer) refused this node's certificate (\(alert)); enrol this node there with "
                + "`mobilityctl node add` and reload mobilityd"
        case .timedOut(let what): return "\(what): deadline passed"
        case .closedByPeer: return "the other node closed the channel"
        case .truncated: return "the connection ended without notice from the other node"
        case .closed: return "the channel is closed"
        case .frame(let violation): return "protocol violation by the other node: \(violation)"
        case .payloadTooLong(let type, let length, let limit):
            return "message of type \(type) has \(length) bytes, its limit is \(limit)"
        case .malformedHello(let why): return "malformed Hello: \(why)"
        case .incompatible(let peer, let ours, let theirs):
            return "node \(peer) speaks protocol versions \(theirs.lowerBound) to \(theirs.upperBound), this node "
                + "\(ours.lowerBound) to \(ours.upperBound); update mobilityd on the older one"
        case .nameMismatch(let certificate, let hello):
            return "the node with the certificate of \(certificate) calls itself \(hello)"
        case .configuration(let file, let line, let key, let why): return "\(file):\(line): \(key): \(why)"
        case .enrolment(let file, let why): return "\(file): \(why)"
        }
    }
}
