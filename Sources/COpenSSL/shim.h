// OpenSSL 3 with its function-like macros, which Swift cannot import, as functions. Nothing here decides anything.
#pragma once
#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

static inline int co_set_protocol(SSL_CTX *c, int version) {
    return SSL_CTX_set_min_proto_version(c, version) && SSL_CTX_set_max_proto_version(c, version);
}
static inline long co_set_mode(SSL_CTX *c, long mode) { return SSL_CTX_set_mode(c, mode); }
static inline long co_set_session_cache_mode(SSL_CTX *c, long mode) { return SSL_CTX_set_session_cache_mode(c, mode); }
static inline void co_set_options(SSL_CTX *c) {
    SSL_CTX_set_options(c, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
}
static inline EVP_PKEY *co_generate_p256(void) { return EVP_EC_gen("P-256"); }
static inline int co_error_reason(unsigned long e) { return ERR_GET_REASON(e); }
