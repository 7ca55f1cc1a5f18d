/* ChaCha20's key (RFC 8439 2.3) as the vector kernels want it. */
#ifndef FIREZONE_CHACHA20_H
#define FIREZONE_CHACHA20_H

#include "aead_work.h"

/* "expand 32-byte k" */
static const ALIGNED u32 SIGMA[4] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};

struct chacha_key {
    const u8 *of;          /* the key these words come from: kept while it stays the same */
    ALIGNED u32 word[12];  /* sigma and key: the state's first three rows */
    u32 sum[4];            /* sigma + key: the first addition, the same in every lane */
    u32 column1[4];        /* column 1 after its first quarter round, as the nonce's word is zero */
};

INLINE u32 rotate32(u32 x, int n) { return x << n | x >> (32 - n); }

INLINE void chacha_key_set(struct chacha_key *k, const u8 *key)
{
    if (k->of == key)
        return;
    k->of = key;
    memcpy(k->word, SIGMA, 16);
    memcpy(k->word + 4, key, 32);
    for (int i = 0; i < 4; i++)
        k->sum[i] = k->word[i] + k->word[4 + i];
    u32 a = k->word[1], b = k->word[5], c = k->word[9], d = 0;
    a += b; d = rotate32(d ^ a, 16); c += d; b = rotate32(b ^ c, 12);
    a += b; d = rotate32(d ^ a, 8);  c += d; b = rotate32(b ^ c, 7);
    k->column1[0] = a; k->column1[1] = b; k->column1[2] = c; k->column1[3] = d;
}

#endif
