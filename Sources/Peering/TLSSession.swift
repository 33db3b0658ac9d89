import COpenSSL
import Kernel

/// One TLS 1.3 connection between two memory BIOs: no I/O, no waiting, no locking.
///
/// OpenSSL's SSL object must not be used by two threads at once. Keeping it off the socket makes each use short and
/// bounded, so `Channel` can put a lock around each one while a thread waits for the socket outside of it. It also
/// leaves every send(2) to `InternetSocket.send`, with MSG_NOSIGNAL, and joins many records into one call.
// Unchecked: not safe by itself, but it is used by the one thread that opens a connection and then only inside the
// `Mutex` of its `Channel`, and it hands out no pointer.
final class TLSSession: @unchecked Sendable {
    enum Role { case client, server }

    /// What the verify callback knows and finds; alive as long as the context that points to it.
    private final class Trust {
        let pins: [[UInt8]: String]
        var acceptedName: String?
        var rejected: String?

        init(_ peers: some Sequence<Peer>) {
            pins = Dictionary(peers.map { ($0.certificate.der, $0.name) }, uniquingKeysWith: { first, _ in first })
        }

        func judge(_ store: OpaquePointer?) -> Int32 {
            guard let leaf = X509_STORE_CTX_get0_cert(store), let der = OpenSSL.der(leaf) else { return 0 }
            if let name = pins[der] {
                acceptedName = name
                return 1
            }
            rejected = Certificate.fingerprint(der)
            X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_UNTRUSTED)
            return 0
        }
    }

    /// RFC 8446, section 5.5: an AES-GCM key may protect 2^24.5 full records. A fresh key is due well before.
    private static let recordsPerKey = 1 << 23

    private let context: OpaquePointer
    private let ssl: OpaquePointer
    private let input: OpaquePointer
    private let output: OpaquePointer
    private let trust: Trust
    /// Whom the errors name.
    private let peerName: String
    private var recordsWritten = 0
    /// Why nothing more can be read.
    private var failure: PeeringError?

    /// A session as `identity` that trusts exactly `peers`; `peerName` is for errors.
    init(role: Role, identity: Identity, peers: [Peer], peerName: String) throws(PeeringError) {
        ERR_clear_error()
        guard let context = SSL_CTX_new(role == .client ? TLS_client_method() : TLS_server_method()) else {
            throw OpenSSL.failure("create context")
        }
        let trust = Trust(peers)
        do throws(PeeringError) {
            try Self.configure(context, identity)
        } catch {
            SSL_CTX_free(context)
            throw error
        }
        // The whole judgement is equality with a pinned certificate; TLS itself proves possession of its key.
        SSL_CTX_set_cert_verify_callback(
            context,
            { store, argument in
                guard let argument else { return 0 }
                return Unmanaged<Trust>.fromOpaque(argument).takeUnretainedValue().judge(store)
            }, Unmanaged.passUnretained(trust).toOpaque())
        guard let ssl = SSL_new(context), let input = BIO_new(BIO_s_mem()), let output = BIO_new(BIO_s_mem()) else {
            SSL_CTX_free(context)
            throw OpenSSL.failure("create connection")
        }
        SSL_set_bio(ssl, input, output)
        if role == .client { SSL_set_connect_state(ssl) } else { SSL_set_accept_state(ssl) }
        (self.context, self.ssl, self.input, self.output) = (context, ssl, input, output)
        (self.trust, self.peerName) = (trust, peerName)
    }

    deinit {
        SSL_free(ssl)
        SSL_CTX_free(context)
    }

    private static func configure(_ context: OpaquePointer, _ identity: Identity) throws(PeeringError) {
        guard co_set_protocol(context, TLS1_3_VERSION) == 1,
            SSL_CTX_set_ciphersuites(
                context, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256") == 1
        else { throw OpenSSL.failure("restrict protocol") }
        co_set_options(context)
        _ = co_set_session_cache_mode(context, Int(SSL_SESS_CACHE_OFF))
        SSL_CTX_set_num_tickets(context, 0)
        SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nil)
        guard let key = OpenSSL.readKey(identity.keyPEM) else { throw OpenSSL.failure("read node.key") }
        defer { EVP_PKEY_free(key) }
        guard let certificate = OpenSSL.readCertificate(der: identity.certificate.der) else {
            throw OpenSSL.failure("read node.crt")
        }
        defer { X509_free(certificate) }
        guard SSL_CTX_use_certificate(context, certificate) == 1, SSL_CTX_use_PrivateKey(context, key) == 1,
            SSL_CTX_check_private_key(context) == 1
        else { throw OpenSSL.failure("use identity") }
    }

    /// Whether `keyPEM` is the private key of `certificate`.
    static func checkKey(_ keyPEM: [UInt8], belongsTo certificate: Certificate, file: String) throws(PeeringError) {
        ERR_clear_error()
        guard let key = OpenSSL.readKey(keyPEM) else {
            throw .enrolment(file: file, why: "holds no private key in PEM form (\(OpenSSL.takeError()))")
        }
        defer { EVP_PKEY_free(key) }
        guard let parsed = OpenSSL.readCertificate(der: certificate.der) else {
            throw OpenSSL.failure("read certificate")
        }
        defer { X509_free(parsed) }
        guard X509_check_private_key(parsed, key) == 1 else {
            throw .enrolment(file: file, why: "is not the key of node.crt (\(OpenSSL.takeError()))")
        }
    }

    /// The node whose pinned certificate the other end proved to hold; nil before the handshake ends.
    var authenticatedName: String? { SSL_is_init_finished(ssl) == 1 ? trust.acceptedName : nil }

    /// One step; true when the handshake is complete, false when it waits for input.
    func handshake() throws(PeeringError) -> Bool {
        ERR_clear_error()
        let result = SSL_do_handshake(ssl)
        if result == 1 { return true }
        try check(result, "handshake")
        return false
    }

    /// Bytes from the socket.
    func feed(_ bytes: UnsafeRawBufferPointer) throws(PeeringError) {
        // A memory BIO takes everything or is out of memory.
        guard BIO_write(input, bytes.baseAddress, Int32(bytes.count)) == Int32(bytes.count) else {
            throw OpenSSL.failure("buffer input")
        }
    }

    /// Decrypts as much as fits into `buffer`; 0 when more input is needed.
    func read(into buffer: UnsafeMutableRawBufferPointer) throws(PeeringError) -> Int {
        if let failure { throw failure }
        var total = 0
        while total < buffer.count {
            ERR_clear_error()
            var count = 0
            let result = SSL_read_ex(ssl, buffer.baseAddress! + total, buffer.count - total, &count)
            if result == 1 {
                total += count
                continue
            }
            do throws(PeeringError) { try check(result, "read") } catch {
                // OpenSSL gives the reason once. What was decrypted before goes up first, the reason at the next call.
                failure = error
                if total == 0 { throw error }
            }
            break
        }
        return total
    }

    /// Encrypts all of `bytes` into the output.
    func write(_ bytes: UnsafeRawBufferPointer) throws(PeeringError) {
        ERR_clear_error()
        recordsWritten += (bytes.count + 16_383) / 16_384
        if recordsWritten >= Self.recordsPerKey {
            recordsWritten = 0
            guard SSL_key_update(ssl, SSL_KEY_UPDATE_NOT_REQUESTED) == 1 else { throw OpenSSL.failure("change key") }
        }
        var count = 0
        let result = SSL_write_ex(ssl, bytes.baseAddress, bytes.count, &count)
        guard result == 1, count == bytes.count else {
            try check(result, "write")
            throw .tls(operation: "write", reason: "only \(count) of \(bytes.count) bytes were taken")
        }
    }

    /// Queues close_notify.
    func shutDown() {
        ERR_clear_error()
        _ = SSL_shutdown(ssl)
        ERR_clear_error()
    }

    /// Moves bytes for the socket into `buffer`; 0 when there are none.
    func takeOutput(into buffer: UnsafeMutableRawBufferPointer) -> Int {
        Int(max(0, BIO_read(output, buffer.baseAddress, Int32(clamping: buffer.count))))
    }

    /// Returns when the session merely waits for input; throws what else happened.
    private func check(_ result: Int32, _ operation: String) throws(PeeringError) {
        let code = SSL_get_error(ssl, result)
        switch code {
        case SSL_ERROR_WANT_READ: return
        case SSL_ERROR_ZERO_RETURN: throw .closedByPeer
        default: break
        }
        let reason = co_error_reason(ERR_peek_error())
        if reason == SSL_R_CERTIFICATE_VERIFY_FAILED, let fingerprint = trust.rejected {
            ERR_clear_error()
            throw .untrustedCertificate(expected: peerName, fingerprint: fingerprint)
        }
        if Self.refusals.contains(reason) {
            throw .notEnrolledThere(peer: peerName, alert: OpenSSL.takeError())
        }
        throw .tls(operation: operation, reason: OpenSSL.takeError())
    }

    /// OpenSSL numbers a received alert 1000 + its code of RFC 8446, section 6: bad_certificate 42,
    /// certificate_revoked 44, certificate_expired 45, certificate_unknown 46, unknown_ca 48, access_denied 49,
    /// certificate_required 116.
    private static let refusals: Set<Int32> = [1042, 1044, 1045, 1046, 1048, 1049, 1116]
}
