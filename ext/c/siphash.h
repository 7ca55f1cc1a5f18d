/* SipHash-1-3 over whole 64-bit words: the keyed hash of tables whose keys strangers choose.
 * Aumasson, Bernstein: SipHash, a fast short-input PRF (2012). */
#ifndef FIREZONE_SIPHASH_H
#define FIREZONE_SIPHASH_H

#include <stdint.h>

#define FZ_ROTL(x, n) (((x) << (n)) | ((x) >> (64 - (n))))
#define FZ_SIPROUND                                                                               \
    do {                                                                                          \
        v0 += v1; v1 = FZ_ROTL(v1, 13); v1 ^= v0; v0 = FZ_ROTL(v0, 32);                           \
        v2 += v3; v3 = FZ_ROTL(v3, 16); v3 ^= v2;                                                 \
        v0 += v3; v3 = FZ_ROTL(v3, 21); v3 ^= v0;                                                 \
        v2 += v1; v1 = FZ_ROTL(v1, 17); v1 ^= v2; v2 = FZ_ROTL(v2, 32);                           \
    } while (0)

static inline uint64_t siphash13(uint64_t k0, uint64_t k1, const uint64_t *words, uint32_t count) {
    uint64_t v0 = k0 ^ 0x736f6d6570736575u, v1 = k1 ^ 0x646f72616e646f6du;
    uint64_t v2 = k0 ^ 0x6c7967656e657261u, v3 = k1 ^ 0x7465646279746573u;
    uint64_t last = (uint64_t)count << 59; /* the length in bytes, modulo 256, on top */
    for (uint32_t i = 0; i < count; i++) {
        v3 ^= words[i];
        FZ_SIPROUND;
        v0 ^= words[i];
    }
    v3 ^= last;
    FZ_SIPROUND;
    v0 ^= last;
    v2 ^= 0xff;
    FZ_SIPROUND;
    FZ_SIPROUND;
    FZ_SIPROUND;
    return v0 ^ v1 ^ v2 ^ v3;
}

#undef FZ_SIPROUND
#undef FZ_ROTL
#endif
