/* ChaCha20-Poly1305 (RFC 8439) over a batch of packets, as WireGuard uses it: no associated data, a
 * nonce of four zero bytes and the 64-bit counter in little endian. Keys and lengths may be
 * mixed. */
#ifndef FIREZONE_AEAD_H
#define FIREZONE_AEAD_H

#include <stddef.h>
#include <stdint.h>

/* In place if dst == src; no other overlap, with other items neither. */
typedef struct aead_item {
    const uint8_t *key;   /* 32 bytes */
    const uint8_t *src;   /* seal: plaintext; open: ciphertext and the tag behind it */
    uint8_t *dst;         /* seal: room for ciphertext and tag; open: for the plaintext */
    uint64_t counter;
    uint32_t length;      /* of the plaintext, both ways; less than 2^31 */
    uint32_t ok;          /* set by open: 1 = authentic, dst written; 0 = not, dst as it was */
} aead_item;

typedef struct aead_backend {
    const char *name;
    void (*seal)(aead_item *items, size_t count);
    void (*open)(aead_item *items, size_t count);
} aead_backend;

/* The backends of this build that this CPU and its system can run, best first; NULL behind the
 * last. On other CPUs than x86-64 there is none. */
const aead_backend *aead_backend_at(size_t index);

extern const aead_backend aead_avx512, aead_avx512z, aead_avx2;    /* x86-64 only */

#endif
