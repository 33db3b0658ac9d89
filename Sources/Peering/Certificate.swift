import COpenSSL
import Kernel

/// OpenSSL's view of certificates and keys; owned objects never leave this file and TLSSession.swift.
enum OpenSSL {
    /// The oldest error of this thread's queue as text, and an empty queue.
    static func takeError() -> String {
        let code = ERR_get_error()
        ERR_clear_error()
        guard code != 0 else { return "no reason given" }
        var text = [CChar](repeating: 0, count: 256)
        ERR_error_string_n(code, &text, text.count)
        return String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    static func failure(_ operation: String) -> PeeringError { .tls(operation: operation, reason: takeError()) }

    /// What `write` puts into a memory BIO.
    static func collect(_ operation: String, _ write: (OpaquePointer) -> Int32) throws(PeeringError) -> [UInt8] {
        guard let memory = BIO_new(BIO_s_mem()) else { throw failure(operation) }
        defer { BIO_free(memory) }
        guard write(memory) == 1 else { throw failure(operation) }
        var bytes = [UInt8](repeating: 0, count: BIO_ctrl_pending(memory))
        let count = BIO_read(memory, &bytes, Int32(bytes.count))
        return Array(bytes.prefix(Int(max(count, 0))))
    }

    /// Hands `body` a memory BIO that reads `bytes`.
    static func withMemory<Result>(_ bytes: [UInt8], _ body: (OpaquePointer) -> Result?) -> Result? {
        bytes.withUnsafeBytes { raw in
            guard let memory = BIO_new_mem_buf(raw.baseAddress, Int32(clamping: raw.count)) else { return nil }
            defer { BIO_free(memory) }
            return body(memory)
        }
    }

    /// The caller frees; never asks for a pass phrase.
    static func readKey(_ pem: [UInt8]) -> OpaquePointer? {
        withMemory(pem) { PEM_read_bio_PrivateKey($0, nil, { _, _, _, _ in -1 }, nil) }
    }

    /// The caller frees.
    static func readCertificate(der: [UInt8]) -> OpaquePointer? {
        der.withUnsafeBufferPointer { buffer in
            var cursor = buffer.baseAddress
            return d2i_X509(nil, &cursor, buffer.count)
        }
    }

    static func der(_ certificate: OpaquePointer) -> [UInt8]? {
        var encoded: UnsafeMutablePointer<UInt8>?
        let count = i2d_X509(certificate, &encoded)
        guard count > 0, let encoded else { return nil }
        defer { CRYPTO_free(encoded, #file, #line) }
        return Array(UnsafeBufferPointer(start: encoded, count: Int(count)))
    }

    static func sha256(_ bytes: [UInt8]) -> [UInt8] {
        var digest = [UInt8](repeating: 0, count: 32)
        EVP_Digest(bytes, bytes.count, &digest, nil, EVP_sha256(), nil)
        return digest
    }
}

/// A node's certificate: its exact DER, the common name and the fingerprint by which people compare it.
struct Certificate: Hashable, Sendable {
    let der: [UInt8]
    let commonName: String

    /// SHA-256 of the DER, lower-case hexadecimal.
    var fingerprint: String { Self.fingerprint(der) }

    static func fingerprint(_ der: [UInt8]) -> String {
        OpenSSL.sha256(der).map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }

    /// Parses the first certificate of a PEM file; `file` is for the error.
    init(pem: [UInt8], file: String) throws(PeeringError) {
        let certificate = OpenSSL.withMemory(pem) { PEM_read_bio_X509($0, nil, { _, _, _, _ in -1 }, nil) }
        guard let certificate else {
            throw .enrolment(file: file, why: "holds no certificate in PEM form (\(OpenSSL.takeError()))")
        }
        defer { X509_free(certificate) }
        guard let der = OpenSSL.der(certificate), let name = Self.commonName(certificate) else {
            throw .enrolment(file: file, why: "the certificate has no common name")
        }
        self.der = der
        commonName = name
    }

    /// The certificate alone, as PEM.
    func pem() throws(PeeringError) -> [UInt8] {
        guard let certificate = OpenSSL.readCertificate(der: der) else { throw OpenSSL.failure("read certificate") }
        defer { X509_free(certificate) }
        return try OpenSSL.collect("write certificate") { PEM_write_bio_X509($0, certificate) }
    }

    private static func commonName(_ certificate: OpaquePointer) -> String? {
        var text = [CChar](repeating: 0, count: 256)
        let count = X509_NAME_get_text_by_NID(
            X509_get_subject_name(certificate), NID_commonName, &text, Int32(text.count))
        guard count > 0, Int(count) < text.count else { return nil }
        return String(validating: text.prefix(Int(count)).map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}

/// A fresh key with its self-signed certificate, both PEM.
struct KeyPair {
    /// Twenty years: enrolment ends by removing the pinned file, not by a date that strands a service one night.
    static let lifetimeSeconds = 20 * 365 * 86_400

    let keyPEM: [UInt8]
    let certificatePEM: [UInt8]

    /// ECDSA on P-256, subject and issuer CN=`name`.
    static func generate(name: String) throws(PeeringError) -> KeyPair {
        guard let key = co_generate_p256() else { throw OpenSSL.failure("generate key") }
        defer { EVP_PKEY_free(key) }
        guard let certificate = X509_new() else { throw OpenSSL.failure("create certificate") }
        defer { X509_free(certificate) }
        var serial: UInt64 = 0
        let subject = X509_get_subject_name(certificate)
        // A day back, so that a peer whose clock is behind can inspect it without a warning.
        guard fillRandom(&serial),
            X509_set_version(certificate, 2) == 1,
            ASN1_INTEGER_set_uint64(X509_get_serialNumber(certificate), serial >> 1 | 1) == 1,
            X509_gmtime_adj(X509_getm_notBefore(certificate), -86_400) != nil,
            X509_gmtime_adj(X509_getm_notAfter(certificate), lifetimeSeconds) != nil,
            X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, name, Int32(name.utf8.count), -1, 0) == 1,
            X509_set_issuer_name(certificate, subject) == 1,
            X509_set_pubkey(certificate, key) == 1,
            X509_sign(certificate, key, EVP_sha256()) > 0
        else { throw OpenSSL.failure("sign certificate") }
        return KeyPair(
            keyPEM: try OpenSSL.collect("write key") { PEM_write_bio_PrivateKey($0, key, nil, nil, 0, nil, nil) },
            certificatePEM: try OpenSSL.collect("write certificate") { PEM_write_bio_X509($0, certificate) })
    }

    private static func fillRandom(_ value: inout UInt64) -> Bool {
        withUnsafeMutableBytes(of: &value) {
            RAND_bytes($0.bindMemory(to: UInt8.self).baseAddress!, Int32($0.count)) == 1
        }
    }
}
