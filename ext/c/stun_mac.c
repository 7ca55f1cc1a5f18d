#include "stun_mac.h"

#include <string.h>

#include "atomics.h"
#include "stun.h"

enum { BLOCK = 64, ROUNDS = 80 };

static inline uint32_t rotate(uint32_t x, int n) { return x << n | x >> (32 - n); }

/* SHA-1 (FIPS 180-4): broken where collisions count, which they do not under HMAC. */

typedef struct sha1 {
    uint32_t state[5];
    uint64_t size;
    uint8_t block[BLOCK]; /* what has not been taken in yet */
    uint32_t words[16];
} sha1;

static void compress(sha1 *s, const uint8_t *block) {
    uint32_t *w = s->words, *state = s->state;
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
#pragma GCC unroll 80
    for (int i = 0; i < ROUNDS; i++) {
        uint32_t f, k, word;
        if (i < 16)
            word = w[i] = load32(block + 4 * i);
        else
            word = w[i & 15] =
                rotate(w[(i + 13) & 15] ^ w[(i + 8) & 15] ^ w[(i + 2) & 15] ^ w[i & 15], 1);
        if (i < 20)
            f = d ^ (b & (c ^ d)), k = 0x5A827999;
        else if (i < 40)
            f = b ^ c ^ d, k = 0x6ED9EBA1;
        else if (i < 60)
            f = (b & c) | (d & (b | c)), k = 0x8F1BBCDC;
        else
            f = b ^ c ^ d, k = 0xCA62C1D6;
        uint32_t next = rotate(a, 5) + f + e + k + word;
        e = d, d = c, c = rotate(b, 30), b = a, a = next;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e;
}

static void sha1_begin(sha1 *s) {
    static const uint32_t initial[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    memcpy(s->state, initial, sizeof(initial));
    s->size = 0;
}

static void sha1_add(sha1 *s, const uint8_t *data, size_t size) {
    size_t held = s->size % BLOCK;
    s->size += size;
    if (held != 0) {
        size_t taken = size < BLOCK - held ? size : BLOCK - held;
        memcpy(s->block + held, data, taken);
        if (held + taken < BLOCK)
            return;
        compress(s, s->block);
        data += taken;
        size -= taken;
    }
    for (; size >= BLOCK; data += BLOCK, size -= BLOCK)
        compress(s, data);
    if (size != 0)
        memcpy(s->block, data, size);
}

static void sha1_end(sha1 *s, uint8_t digest[STUN_INTEGRITY_SIZE]) {
    size_t held = s->size % BLOCK;
    uint64_t bits = s->size * 8;
    s->block[held++] = 0x80;
    if (held > BLOCK - 8) {
        memset(s->block + held, 0, BLOCK - held);
        compress(s, s->block);
        held = 0;
    }
    memset(s->block + held, 0, BLOCK - 8 - held);
    store32(s->block + BLOCK - 8, (uint32_t)(bits >> 32));
    store32(s->block + BLOCK - 4, (uint32_t)bits);
    compress(s, s->block);
    for (int i = 0; i < 5; i++)
        store32(digest + 4 * i, s->state[i]);
}

void stun_integrity(uint8_t mac[STUN_INTEGRITY_SIZE], const uint8_t *key, size_t key_size,
                    const uint8_t *message, size_t size) {
    sha1 s;
    uint8_t pad[BLOCK] = {0}, header[STUN_HEADER];
    stun_header_counting(header, message, size, STUN_ATTRIBUTE + STUN_INTEGRITY_SIZE);
    if (key_size > BLOCK) {
        sha1_begin(&s);
        sha1_add(&s, key, key_size);
        sha1_end(&s, pad);
    } else if (key_size != 0) {
        memcpy(pad, key, key_size);
    }
    for (int i = 0; i < BLOCK; i++)
        pad[i] ^= 0x36;
    sha1_begin(&s);
    sha1_add(&s, pad, BLOCK);
    sha1_add(&s, header, STUN_HEADER);
    sha1_add(&s, message + STUN_HEADER, size - STUN_HEADER);
    sha1_end(&s, mac);
    for (int i = 0; i < BLOCK; i++)
        pad[i] ^= 0x36 ^ 0x5C;
    sha1_begin(&s);
    sha1_add(&s, pad, BLOCK);
    sha1_add(&s, mac, STUN_INTEGRITY_SIZE);
    sha1_end(&s, mac);
    wipe(pad, sizeof(pad));
    wipe(&s, sizeof(s));
}
