#include "blake2s.h"

#include "atomics.h"

#include <string.h>

#define BLOCK 64

static const uint32_t IV[8] = {0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A,
                               0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19};

static const uint8_t SIGMA[10][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
    {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
    {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
    {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
    {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
    {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
};

static inline uint32_t rotr(uint32_t x, int n) { return x >> n | x << (32 - n); }

static inline uint32_t load32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline void mix(uint32_t *v, int a, int b, int c, int d, uint32_t x, uint32_t y) {
    v[a] += v[b] + x;
    v[d] = rotr(v[d] ^ v[a], 16);
    v[c] += v[d];
    v[b] = rotr(v[b] ^ v[c], 12);
    v[a] += v[b] + y;
    v[d] = rotr(v[d] ^ v[a], 8);
    v[c] += v[d];
    v[b] = rotr(v[b] ^ v[c], 7);
}

/* `count` bytes were hashed with this block, which is the last one or not. */
static void compress(uint32_t h[8], const uint8_t block[BLOCK], uint64_t count, int last) {
    uint32_t m[16], v[16];
    for (int i = 0; i < 16; i++)
        m[i] = load32(block + 4 * i);
    memcpy(v, h, 32);
    memcpy(v + 8, IV, 32);
    v[12] ^= (uint32_t)count;
    v[13] ^= (uint32_t)(count >> 32);
    if (last)
        v[14] = ~v[14];
    /* Unrolled, the schedule is constants. */
#pragma GCC unroll 10
    for (int round = 0; round < 10; round++) {
        const uint8_t *s = SIGMA[round];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
            mix(v, i, 4 + i, 8 + i, 12 + i, m[s[2 * i]], m[s[2 * i + 1]]);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
            mix(v, i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4, m[s[8 + 2 * i]],
                m[s[9 + 2 * i]]);
    }
    for (int i = 0; i < 8; i++)
        h[i] ^= v[i] ^ v[8 + i];
}

void blake2s(uint8_t *digest, size_t digest_size, const uint8_t *key, size_t key_size,
             const uint8_t *data, size_t size) {
    uint32_t h[8];
    uint8_t block[BLOCK] = {0};
    uint64_t count = 0;
    memcpy(h, IV, sizeof h);
    h[0] ^= 0x01010000 ^ (uint32_t)(key_size << 8) ^ (uint32_t)digest_size;
    if (key_size) {
        memcpy(block, key, key_size);
        count = BLOCK;
        compress(h, block, count, size == 0);
    }
    for (; size > BLOCK; data += BLOCK, size -= BLOCK) {
        count += BLOCK;
        compress(h, data, count, 0);
    }
    if (size || !key_size) {
        memset(block, 0, BLOCK);
        if (size)
            memcpy(block, data, size);
        compress(h, block, count + size, 1);
    }
    for (size_t i = 0; i < digest_size; i++)
        digest[i] = (uint8_t)(h[i / 4] >> (8 * (i % 4)));
}

/* RFC 2104, of a key that fits a block and up to a block of data. */
static void hmac(uint8_t digest[32], const uint8_t key[32], const uint8_t *data, size_t size) {
    uint8_t message[2 * BLOCK], inner[32];
    memset(message, 0x36, BLOCK);
    for (int i = 0; i < 32; i++)
        message[i] ^= key[i];
    if (size)
        memcpy(message + BLOCK, data, size);
    blake2s(inner, 32, NULL, 0, message, BLOCK + size);
    for (int i = 0; i < BLOCK; i++)
        message[i] ^= 0x36 ^ 0x5C;
    memcpy(message + BLOCK, inner, 32);
    blake2s(digest, 32, NULL, 0, message, BLOCK + 32);
    wipe(message, sizeof message);
    wipe(inner, sizeof inner);
}

void blake2s_kdf(uint8_t (*outputs)[32], int count, const uint8_t key[32], const uint8_t *data,
                 size_t size) {
    uint8_t secret[32], previous[33];
    hmac(secret, key, data, size);
    for (int i = 0; i < count; i++) {
        previous[i ? 32 : 0] = (uint8_t)(i + 1);
        hmac(outputs[i], secret, previous, i ? 33 : 1);
        memcpy(previous, outputs[i], 32);
    }
    wipe(secret, sizeof secret);
    wipe(previous, sizeof previous);
}

int equal_constant_time(const uint8_t *a, const uint8_t *b, size_t size) {
    volatile uint8_t difference = 0;
    for (size_t i = 0; i < size; i++)
        difference |= a[i] ^ b[i];
    return difference == 0;
}
