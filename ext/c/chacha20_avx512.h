/* ChaCha20 with AVX-512: 16 blocks, one in each 32-bit lane of 16 registers, or, at a queue's end,
 * 4 or 8 blocks in rows. Lanes differ in key, counter and block; one key for all saves loading
 * them. */
#include "chacha20.h"

#define ADD(a, b) _mm512_add_epi32(a, b)
#define XOR(a, b) _mm512_xor_si512(a, b)
#define ROTATE(a, n) _mm512_rol_epi32(a, n)
#define ALL(word) _mm512_set1_epi32((int)(word))

/* One step of four quarter rounds side by side: the four chains hide each other's latency. */
#define STEP(n, i0, i1, i2, i3, j0, j1, j2, j3, k0, k1, k2, k3) \
    x[i0] = ADD(x[i0], x[j0]); x[i1] = ADD(x[i1], x[j1]); \
    x[i2] = ADD(x[i2], x[j2]); x[i3] = ADD(x[i3], x[j3]); \
    x[k0] = XOR(x[k0], x[i0]); x[k1] = XOR(x[k1], x[i1]); \
    x[k2] = XOR(x[k2], x[i2]); x[k3] = XOR(x[k3], x[i3]); \
    x[k0] = ROTATE(x[k0], n); x[k1] = ROTATE(x[k1], n); \
    x[k2] = ROTATE(x[k2], n); x[k3] = ROTATE(x[k3], n);
#define QUARTER_ROUNDS(b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3) \
    STEP(16, 0, 1, 2, 3, b0, b1, b2, b3, d0, d1, d2, d3) \
    STEP(12, c0, c1, c2, c3, d0, d1, d2, d3, b0, b1, b2, b3) \
    STEP(8, 0, 1, 2, 3, b0, b1, b2, b3, d0, d1, d2, d3) \
    STEP(7, c0, c1, c2, c3, d0, d1, d2, d3, b0, b1, b2, b3)
#define COLUMN_ROUND QUARTER_ROUNDS(4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
#define DIAGONAL_ROUND QUARTER_ROUNDS(5, 6, 7, 4, 10, 11, 8, 9, 15, 12, 13, 14)
#define OUT(i, v) _mm512_storeu_si512(dst[i], XOR(v, _mm512_loadu_si512(src[i])))

/* Transposes 16 state words of 16 lanes into 16 blocks, by units of 32, 64, then 128 bits. */
TARGET INLINE void xor_16_blocks(const __m512i x[16], const u8 *const *src, u8 *const *dst)
{
    __m512i t[16];
    UNROLL for (int i = 0; i < 16; i += 4) {
        __m512i u0 = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        __m512i u1 = _mm512_unpackhi_epi32(x[i], x[i + 1]);
        __m512i u2 = _mm512_unpacklo_epi32(x[i + 2], x[i + 3]);
        __m512i u3 = _mm512_unpackhi_epi32(x[i + 2], x[i + 3]);
        t[i] = _mm512_unpacklo_epi64(u0, u2);
        t[i + 1] = _mm512_unpackhi_epi64(u0, u2);
        t[i + 2] = _mm512_unpacklo_epi64(u1, u3);
        t[i + 3] = _mm512_unpackhi_epi64(u1, u3);
    }
    /* t[4w + b] holds words 4w..4w+3 of blocks b, b+4, b+8, b+12 */
    UNROLL for (int b = 0; b < 4; b++) {
        __m512i v0 = _mm512_shuffle_i32x4(t[b], t[4 + b], 0x44);
        __m512i v1 = _mm512_shuffle_i32x4(t[b], t[4 + b], 0xee);
        __m512i v2 = _mm512_shuffle_i32x4(t[8 + b], t[12 + b], 0x44);
        __m512i v3 = _mm512_shuffle_i32x4(t[8 + b], t[12 + b], 0xee);
        OUT(b, _mm512_shuffle_i32x4(v0, v2, 0x88));
        OUT(b + 4, _mm512_shuffle_i32x4(v0, v2, 0xdd));
        OUT(b + 8, _mm512_shuffle_i32x4(v1, v3, 0x88));
        OUT(b + 12, _mm512_shuffle_i32x4(v1, v3, 0xdd));
    }
}

TARGET INLINE void add_nonce_rows(__m512i x[16], const struct unit_queue *q, unsigned at)
{
    x[12] = ADD(x[12], _mm512_loadu_si512(q->block + at));
    x[14] = ADD(x[14], _mm512_loadu_si512(q->counter_low + at));
    x[15] = ADD(x[15], _mm512_loadu_si512(q->counter_high + at));
}

/* 16 blocks under one key. Of the first column round, what is the same in all lanes is done. */
TARGET static void chacha20_16_one_key(
    const struct chacha_key *k, const struct unit_queue *q, unsigned at)
{
    __m512i x[16];
    const u32 *w = k->word;
    x[0] = ALL(k->sum[0]); x[2] = ALL(k->sum[2]); x[3] = ALL(k->sum[3]);
    x[4] = ALL(w[4]); x[6] = ALL(w[6]); x[7] = ALL(w[7]);
    x[8] = ALL(w[8]); x[10] = ALL(w[10]); x[11] = ALL(w[11]);
    x[12] = _mm512_loadu_si512(q->block + at);
    x[14] = _mm512_loadu_si512(q->counter_low + at);
    x[15] = _mm512_loadu_si512(q->counter_high + at);
    x[1] = ALL(k->column1[0]); x[5] = ALL(k->column1[1]);
    x[9] = ALL(k->column1[2]); x[13] = ALL(k->column1[3]);
#define STEP3(n, i0, i1, i2, j0, j1, j2, k0, k1, k2) \
    x[i0] = ADD(x[i0], x[j0]); x[i1] = ADD(x[i1], x[j1]); x[i2] = ADD(x[i2], x[j2]); \
    x[k0] = ROTATE(XOR(x[k0], x[i0]), n); x[k1] = ROTATE(XOR(x[k1], x[i1]), n); \
    x[k2] = ROTATE(XOR(x[k2], x[i2]), n);
    x[12] = ROTATE(XOR(x[12], x[0]), 16);
    x[14] = ROTATE(XOR(x[14], x[2]), 16);
    x[15] = ROTATE(XOR(x[15], x[3]), 16);
    STEP3(12, 8, 10, 11, 12, 14, 15, 4, 6, 7)
    STEP3(8, 0, 2, 3, 4, 6, 7, 12, 14, 15)
    STEP3(7, 8, 10, 11, 12, 14, 15, 4, 6, 7)
#undef STEP3
    DIAGONAL_ROUND
    for (int r = 1; r < 10; r++) {
        COLUMN_ROUND
        DIAGONAL_ROUND
    }
    UNROLL for (int i = 0; i < 12; i++) x[i] = ADD(x[i], ALL(w[i]));
    add_nonce_rows(x, q, at);
    xor_16_blocks(x, q->src + at, q->dst + at);
}

/* Word i of the keys of 16 units in word[i]. */
TARGET INLINE void load_16_keys(__m512i word[8], const u8 *const *key)
{
#define KEYS(i) _mm512_inserti64x4( \
        _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)key[i])), \
        _mm256_loadu_si256((const __m256i *)key[(i) + 8]), 1)
    __m512i u[8], t[8];
    /* A register holds keys i and i + 8; its four 128-bit parts are transposed alike. */
    UNROLL for (int i = 0; i < 8; i += 2) {
        __m512i a = KEYS(i), b = KEYS(i + 1);
        u[i] = _mm512_unpacklo_epi32(a, b);
        u[i + 1] = _mm512_unpackhi_epi32(a, b);
    }
    UNROLL for (int i = 0; i < 8; i += 4) {
        t[i] = _mm512_unpacklo_epi64(u[i], u[i + 2]);
        t[i + 1] = _mm512_unpackhi_epi64(u[i], u[i + 2]);
        t[i + 2] = _mm512_unpacklo_epi64(u[i + 1], u[i + 3]);
        t[i + 3] = _mm512_unpackhi_epi64(u[i + 1], u[i + 3]);
    }
    /* t[w], t[4 + w]: words w, 4 + w of keys 0-3, of keys 4-7; upper half: of keys 8-15 */
    const __m512i low = _mm512_set_epi64(13, 12, 5, 4, 9, 8, 1, 0);
    const __m512i high = _mm512_set_epi64(15, 14, 7, 6, 11, 10, 3, 2);
    UNROLL for (int i = 0; i < 4; i++) {
        word[i] = _mm512_permutex2var_epi64(t[i], low, t[4 + i]);
        word[4 + i] = _mm512_permutex2var_epi64(t[i], high, t[4 + i]);
    }
#undef KEYS
}

/* 16 blocks of packets of different keys. */
TARGET static void chacha20_16_keys(const struct unit_queue *q, unsigned at)
{
    __m512i x[16], key[8];
    load_16_keys(key, q->key + at);
    UNROLL for (int i = 0; i < 4; i++) x[i] = ALL(SIGMA[i]);
    UNROLL for (int i = 0; i < 8; i++) x[4 + i] = key[i];
    x[12] = x[13] = x[14] = x[15] = _mm512_setzero_si512();
    add_nonce_rows(x, q, at);
    for (int r = 0; r < 10; r++) {
        COLUMN_ROUND
        DIAGONAL_ROUND
    }
    UNROLL for (int i = 0; i < 4; i++) x[i] = ADD(x[i], ALL(SIGMA[i]));
    UNROLL for (int i = 0; i < 8; i++) x[4 + i] = ADD(x[4 + i], key[i]);
    add_nonce_rows(x, q, at);
    xor_16_blocks(x, q->src + at, q->dst + at);
}

/* 128 bits from each of four places. */
#define GATHER(p, offset) _mm512_inserti32x4(_mm512_inserti32x4(_mm512_inserti32x4( \
    _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)((p)[0] + (offset)))), \
    _mm_loadu_si128((const __m128i *)((p)[1] + (offset))), 1), \
    _mm_loadu_si128((const __m128i *)((p)[2] + (offset))), 2), \
    _mm_loadu_si128((const __m128i *)((p)[3] + (offset))), 3)
#define EACH UNROLL for (int s = 0; s < sets; s++)

/* 4 * sets blocks: one register for a row of the state, one block in each 128-bit part. Bound by
 * latency with one set, so that two cost nearly the same. */
TARGET INLINE void chacha20_rows(const struct unit_queue *q, unsigned at, const int sets)
{
    __m512i a[2], b[2], c[2], d[2], b0[2], c0[2], d0[2];
    const __m512i order = _mm512_set_epi32(11, 7, 0, 3, 10, 6, 0, 2, 9, 5, 0, 1, 8, 4, 0, 0);
    const __m512i rotate16 = _mm512_broadcast_i32x4(
        _mm_set_epi8(13, 12, 15, 14, 9, 8, 11, 10, 5, 4, 7, 6, 1, 0, 3, 2));
    const __m512i rotate8 = _mm512_broadcast_i32x4(
        _mm_set_epi8(14, 13, 12, 15, 10, 9, 8, 11, 6, 5, 4, 7, 2, 1, 0, 3));
    const __m512i sigma = _mm512_broadcast_i32x4(_mm_load_si128((const __m128i *)SIGMA));
    EACH {
        const unsigned o = at + 4 * (unsigned)s;
        __m512i t = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(q->block + o)));
        t = _mm512_inserti32x4(t, _mm_loadu_si128((const __m128i *)(q->counter_low + o)), 1);
        t = _mm512_inserti32x4(t, _mm_loadu_si128((const __m128i *)(q->counter_high + o)), 2);
        d[s] = d0[s] = _mm512_maskz_permutexvar_epi32(0xdddd, order, t);  /* block, 0, counter */
        a[s] = sigma;
        b[s] = b0[s] = GATHER(q->key + o, 0);
        c[s] = c0[s] = GATHER(q->key + o, 16);
    }
    /* Rotations by 16 and 8 run as shuffles in the second set: another execution port. */
#define HALF(n, m) \
    EACH { a[s] = ADD(a[s], b[s]); } \
    EACH { d[s] = XOR(d[s], a[s]); \
           d[s] = s ? _mm512_shuffle_epi8(d[s], rotate##n) : ROTATE(d[s], n); } \
    EACH { c[s] = ADD(c[s], d[s]); } \
    EACH { b[s] = ROTATE(XOR(b[s], c[s]), m); }
#define TURN(nb, nc, nd) \
    EACH { b[s] = _mm512_shuffle_epi32(b[s], nb); c[s] = _mm512_shuffle_epi32(c[s], nc); \
           d[s] = _mm512_shuffle_epi32(d[s], nd); }
    for (int r = 0; r < 10; r++) {
        HALF(16, 12) HALF(8, 7) TURN(0x39, 0x4e, 0x93)
        HALF(16, 12) HALF(8, 7) TURN(0x93, 0x4e, 0x39)
    }
#undef HALF
#undef TURN
    EACH {
        const u8 *const *src = q->src + at + 4 * s;
        u8 *const *dst = q->dst + at + 4 * s;
        a[s] = ADD(a[s], sigma); b[s] = ADD(b[s], b0[s]);
        c[s] = ADD(c[s], c0[s]); d[s] = ADD(d[s], d0[s]);
        __m512i v0 = _mm512_shuffle_i32x4(a[s], b[s], 0x44);
        __m512i v1 = _mm512_shuffle_i32x4(a[s], b[s], 0xee);
        __m512i v2 = _mm512_shuffle_i32x4(c[s], d[s], 0x44);
        __m512i v3 = _mm512_shuffle_i32x4(c[s], d[s], 0xee);
        OUT(0, _mm512_shuffle_i32x4(v0, v2, 0x88));
        OUT(1, _mm512_shuffle_i32x4(v0, v2, 0xdd));
        OUT(2, _mm512_shuffle_i32x4(v1, v3, 0x88));
        OUT(3, _mm512_shuffle_i32x4(v1, v3, 0xdd));
    }
}
TARGET static void chacha20_4(const struct unit_queue *q, unsigned at) { chacha20_rows(q, at, 1); }
TARGET static void chacha20_8(const struct unit_queue *q, unsigned at) { chacha20_rows(q, at, 2); }

TARGET INLINE int one_key(const u8 *const *key)
{
    const __m512i first = _mm512_set1_epi64((long long)(uintptr_t)key[0]);
    return (_mm512_cmpneq_epi64_mask(first, _mm512_loadu_si512(key)) |
            _mm512_cmpneq_epi64_mask(first, _mm512_loadu_si512(key + 8))) == 0;
}

/* What the driver calls. */

enum { CHACHA_LANES = 16 };

/* Up to 16 units from `at` on; those past `count` are padded by the driver. */
TARGET static void chacha20(
    struct chacha_key *k, const struct unit_queue *q, unsigned at, unsigned count)
{
    if (count <= 4) {
        chacha20_4(q, at);
    } else if (count <= 8) {
        chacha20_8(q, at);
    } else if (one_key(q->key + at)) {
        chacha_key_set(k, q->key[at]);
        chacha20_16_one_key(k, q, at);
    } else {
        chacha20_16_keys(q, at);
    }
}

/* Appends `count` <= 16 successive blocks of a packet. */
TARGET INLINE void append_run(
    struct unit_queue *q, const u8 *key, u64 counter, u32 block, const u8 *src, u8 *dst,
    unsigned count)
{
    const __m512i iota = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i steps = _mm512_set_epi64(448, 384, 320, 256, 192, 128, 64, 0);
    const __m512i eight = _mm512_set1_epi64(512);
    const unsigned n = q->count;
    __m512i k = _mm512_set1_epi64((long long)(uintptr_t)key);
    __m512i s = _mm512_add_epi64(_mm512_set1_epi64((long long)(uintptr_t)src), steps);
    __m512i d = _mm512_add_epi64(_mm512_set1_epi64((long long)(uintptr_t)dst), steps);
    _mm512_storeu_si512(q->block + n, ADD(ALL(block), iota));
    _mm512_storeu_si512(q->counter_low + n, ALL((u32)counter));
    _mm512_storeu_si512(q->counter_high + n, ALL((u32)(counter >> 32)));
    _mm512_storeu_si512(q->key + n, k);
    _mm512_storeu_si512(q->src + n, s);
    _mm512_storeu_si512(q->dst + n, d);
    if (count > 8) {
        _mm512_storeu_si512(q->key + n + 8, k);
        _mm512_storeu_si512(q->src + n + 8, _mm512_add_epi64(s, eight));
        _mm512_storeu_si512(q->dst + n + 8, _mm512_add_epi64(d, eight));
    }
    q->count = n + count;
}

/* Between a packet's last bytes (1 to 63) and a slot of 64. */
TARGET INLINE void tail_in(u8 *slot, const u8 *src, unsigned length)
{
    _mm512_store_si512(slot, _mm512_maskz_loadu_epi8(_bzhi_u64(~0ULL, length), src));
}
TARGET INLINE void tail_out(u8 *dst, const u8 *slot, unsigned length)
{
    _mm512_mask_storeu_epi8(dst, _bzhi_u64(~0ULL, length), _mm512_load_si512(slot));
}

#undef ADD
#undef XOR
#undef ROTATE
#undef ALL
#undef STEP
#undef QUARTER_ROUNDS
#undef COLUMN_ROUND
#undef DIAGONAL_ROUND
#undef OUT
#undef GATHER
#undef EACH
