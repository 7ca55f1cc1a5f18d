/* ChaCha20 with AVX2: 8 blocks, one in each 32-bit lane of 16 registers (the temporaries spill a
 * little), or, at a queue's end, up to 4 blocks in rows. Lanes differ in key, counter and block. */
#include "chacha20.h"

#define ADD(a, b) _mm256_add_epi32(a, b)
#define XOR(a, b) _mm256_xor_si256(a, b)
#define ALL(word) _mm256_set1_epi32((int)(word))
#define LOAD(p) _mm256_loadu_si256((const __m256i *)(p))
#define STORE(p, v) _mm256_storeu_si256((__m256i *)(p), v)
#define SHIFTED(a, n) _mm256_or_si256(_mm256_slli_epi32(a, n), _mm256_srli_epi32(a, 32 - (n)))
#define ROTATE_16(a) _mm256_shuffle_epi8(a, rotate16)
#define ROTATE_12(a) SHIFTED(a, 12)
#define ROTATE_8(a) _mm256_shuffle_epi8(a, rotate8)
#define ROTATE_7(a) SHIFTED(a, 7)
#define ROTATIONS \
    const __m256i rotate16 = _mm256_broadcastsi128_si256( \
        _mm_set_epi8(13, 12, 15, 14, 9, 8, 11, 10, 5, 4, 7, 6, 1, 0, 3, 2)); \
    const __m256i rotate8 = _mm256_broadcastsi128_si256( \
        _mm_set_epi8(14, 13, 12, 15, 10, 9, 8, 11, 6, 5, 4, 7, 2, 1, 0, 3));

/* One step of four quarter rounds side by side. */
#define STEP(n, i0, i1, i2, i3, j0, j1, j2, j3, k0, k1, k2, k3) \
    x[i0] = ADD(x[i0], x[j0]); x[i1] = ADD(x[i1], x[j1]); \
    x[i2] = ADD(x[i2], x[j2]); x[i3] = ADD(x[i3], x[j3]); \
    x[k0] = ROTATE_##n(XOR(x[k0], x[i0])); x[k1] = ROTATE_##n(XOR(x[k1], x[i1])); \
    x[k2] = ROTATE_##n(XOR(x[k2], x[i2])); x[k3] = ROTATE_##n(XOR(x[k3], x[i3]));
#define QUARTER_ROUNDS(b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3) \
    STEP(16, 0, 1, 2, 3, b0, b1, b2, b3, d0, d1, d2, d3) \
    STEP(12, c0, c1, c2, c3, d0, d1, d2, d3, b0, b1, b2, b3) \
    STEP(8, 0, 1, 2, 3, b0, b1, b2, b3, d0, d1, d2, d3) \
    STEP(7, c0, c1, c2, c3, d0, d1, d2, d3, b0, b1, b2, b3)
#define OUT(i, half, v) STORE(dst[i] + 32 * (half), XOR(v, LOAD(src[i] + 32 * (half))))

TARGET INLINE void rounds_8(__m256i x[16])
{
    ROTATIONS
    for (int r = 0; r < 10; r++) {
        QUARTER_ROUNDS(4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
        QUARTER_ROUNDS(5, 6, 7, 4, 10, 11, 8, 9, 15, 12, 13, 14)
    }
}

TARGET INLINE void set_nonce_rows(__m256i x[16], const struct unit_queue *q, unsigned at)
{
    x[12] = LOAD(q->block + at); x[13] = _mm256_setzero_si256();
    x[14] = LOAD(q->counter_low + at); x[15] = LOAD(q->counter_high + at);
}

/* Adds the nonce rows and transposes 16 state words of 8 lanes into 8 blocks. */
TARGET INLINE void xor_8_blocks(__m256i x[16], const struct unit_queue *q, unsigned at)
{
    const u8 *const *src = q->src + at;
    u8 *const *dst = q->dst + at;
    x[12] = ADD(x[12], LOAD(q->block + at));
    x[14] = ADD(x[14], LOAD(q->counter_low + at));
    x[15] = ADD(x[15], LOAD(q->counter_high + at));
    UNROLL for (int half = 0; half < 2; half++) {
        __m256i t[8];
        UNROLL for (int i = 0; i < 8; i += 4) {
            const int o = 8 * half + i;
            __m256i u0 = _mm256_unpacklo_epi32(x[o], x[o + 1]);
            __m256i u1 = _mm256_unpackhi_epi32(x[o], x[o + 1]);
            __m256i u2 = _mm256_unpacklo_epi32(x[o + 2], x[o + 3]);
            __m256i u3 = _mm256_unpackhi_epi32(x[o + 2], x[o + 3]);
            t[i] = _mm256_unpacklo_epi64(u0, u2);
            t[i + 1] = _mm256_unpackhi_epi64(u0, u2);
            t[i + 2] = _mm256_unpacklo_epi64(u1, u3);
            t[i + 3] = _mm256_unpackhi_epi64(u1, u3);
        }
        UNROLL for (int b = 0; b < 4; b++) {
            OUT(b, half, _mm256_permute2x128_si256(t[b], t[4 + b], 0x20));
            OUT(b + 4, half, _mm256_permute2x128_si256(t[b], t[4 + b], 0x31));
        }
    }
}

TARGET static void chacha20_8_one_key(
    const struct chacha_key *k, const struct unit_queue *q, unsigned at)
{
    __m256i x[16];
    UNROLL for (int i = 0; i < 12; i++) x[i] = ALL(k->word[i]);
    set_nonce_rows(x, q, at);
    rounds_8(x);
    UNROLL for (int i = 0; i < 12; i++) x[i] = ADD(x[i], ALL(k->word[i]));
    xor_8_blocks(x, q, at);
}

/* Word i of the keys of 8 units in word[i]. */
TARGET INLINE void load_8_keys(__m256i word[8], const u8 *const *key)
{
    __m256i u[8], t[8];
    UNROLL for (int i = 0; i < 8; i += 2) {
        __m256i a = LOAD(key[i]), b = LOAD(key[i + 1]);
        u[i] = _mm256_unpacklo_epi32(a, b);
        u[i + 1] = _mm256_unpackhi_epi32(a, b);
    }
    UNROLL for (int i = 0; i < 8; i += 4) {
        t[i] = _mm256_unpacklo_epi64(u[i], u[i + 2]);
        t[i + 1] = _mm256_unpackhi_epi64(u[i], u[i + 2]);
        t[i + 2] = _mm256_unpacklo_epi64(u[i + 1], u[i + 3]);
        t[i + 3] = _mm256_unpackhi_epi64(u[i + 1], u[i + 3]);
    }
    UNROLL for (int i = 0; i < 4; i++) {
        word[i] = _mm256_permute2x128_si256(t[i], t[4 + i], 0x20);
        word[4 + i] = _mm256_permute2x128_si256(t[i], t[4 + i], 0x31);
    }
}

TARGET static void chacha20_8_keys(const struct unit_queue *q, unsigned at)
{
    __m256i x[16];
    ALIGNED __m256i key[8];
    load_8_keys(key, q->key + at);
    UNROLL for (int i = 0; i < 4; i++) x[i] = ALL(SIGMA[i]);
    UNROLL for (int i = 0; i < 8; i++) x[4 + i] = key[i];
    set_nonce_rows(x, q, at);
    rounds_8(x);
    UNROLL for (int i = 0; i < 4; i++) x[i] = ADD(x[i], ALL(SIGMA[i]));
    UNROLL for (int i = 0; i < 8; i++) x[4 + i] = ADD(x[4 + i], key[i]);
    xor_8_blocks(x, q, at);
}

#define HALF_64(p) _mm_loadl_epi64((const __m128i *)(p))
#define BOTH(p, offset) _mm256_inserti128_si256( \
    _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)((p)[0] + (offset)))), \
    _mm_loadu_si128((const __m128i *)((p)[1] + (offset))), 1)
#define EACH UNROLL for (int s = 0; s < 2; s++)

/* Up to 4 blocks: a register for a row of the state, a block in each 128-bit half, two sets. */
TARGET static void chacha20_4(const struct unit_queue *q, unsigned at)
{
    __m256i a[2], b[2], c[2], d[2], b0[2], c0[2], d0[2];
    const __m256i order = _mm256_set_epi32(5, 3, 6, 1, 4, 2, 6, 0);
    const __m256i sigma = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)SIGMA));
    ROTATIONS
    EACH {
        const unsigned o = at + 2 * (unsigned)s;
        __m128i t = _mm_unpacklo_epi64(HALF_64(q->block + o), HALF_64(q->counter_low + o));
        d[s] = d0[s] = _mm256_permutevar8x32_epi32(     /* block, 0, counter */
            _mm256_inserti128_si256(_mm256_castsi128_si256(t), HALF_64(q->counter_high + o), 1),
            order);
        a[s] = sigma;
        b[s] = b0[s] = BOTH(q->key + o, 0);
        c[s] = c0[s] = BOTH(q->key + o, 16);
    }
#define HALF(n, m) \
    EACH { a[s] = ADD(a[s], b[s]); } EACH { d[s] = ROTATE_##n(XOR(d[s], a[s])); } \
    EACH { c[s] = ADD(c[s], d[s]); } EACH { b[s] = ROTATE_##m(XOR(b[s], c[s])); }
#define TURN(nb, nc, nd) \
    EACH { b[s] = _mm256_shuffle_epi32(b[s], nb); c[s] = _mm256_shuffle_epi32(c[s], nc); \
           d[s] = _mm256_shuffle_epi32(d[s], nd); }
    for (int r = 0; r < 10; r++) {
        HALF(16, 12) HALF(8, 7) TURN(0x39, 0x4e, 0x93)
        HALF(16, 12) HALF(8, 7) TURN(0x93, 0x4e, 0x39)
    }
#undef HALF
#undef TURN
    EACH {
        const u8 *const *src = q->src + at + 2 * s;
        u8 *const *dst = q->dst + at + 2 * s;
        a[s] = ADD(a[s], sigma); b[s] = ADD(b[s], b0[s]);
        c[s] = ADD(c[s], c0[s]); d[s] = ADD(d[s], d0[s]);
        OUT(0, 0, _mm256_permute2x128_si256(a[s], b[s], 0x20));
        OUT(0, 1, _mm256_permute2x128_si256(c[s], d[s], 0x20));
        OUT(1, 0, _mm256_permute2x128_si256(a[s], b[s], 0x31));
        OUT(1, 1, _mm256_permute2x128_si256(c[s], d[s], 0x31));
    }
}

TARGET INLINE int one_key(const u8 *const *key)
{
    const __m256i first = _mm256_set1_epi64x((long long)(uintptr_t)key[0]);
    return _mm256_movemask_epi8(_mm256_and_si256(
        _mm256_cmpeq_epi64(first, LOAD(key)), _mm256_cmpeq_epi64(first, LOAD(key + 4)))) == -1;
}

/* What the driver calls. */

enum { CHACHA_LANES = 8 };

/* Up to 8 units from `at` on; those past `count` are padded by the driver. */
TARGET static void chacha20(
    struct chacha_key *k, const struct unit_queue *q, unsigned at, unsigned count)
{
    if (count <= 4) {
        chacha20_4(q, at);
    } else if (one_key(q->key + at)) {
        chacha_key_set(k, q->key[at]);
        chacha20_8_one_key(k, q, at);
    } else {
        chacha20_8_keys(q, at);
    }
}

/* Appends `count` <= 16 successive blocks of a packet. */
TARGET INLINE void append_run(
    struct unit_queue *q, const u8 *key, u64 counter, u32 block, const u8 *src, u8 *dst,
    unsigned count)
{
    const __m256i steps = _mm256_set_epi64x(192, 128, 64, 0), four = _mm256_set1_epi64x(256);
    const __m256i k = _mm256_set1_epi64x((long long)(uintptr_t)key);
    const __m256i low = ALL((u32)counter), high = ALL((u32)(counter >> 32));
    const unsigned n = q->count;
    __m256i b = ADD(ALL(block), _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0));
    __m256i s = _mm256_add_epi64(_mm256_set1_epi64x((long long)(uintptr_t)src), steps);
    __m256i d = _mm256_add_epi64(_mm256_set1_epi64x((long long)(uintptr_t)dst), steps);
    for (unsigned i = n; i < n + count; i += 8) {
        STORE(q->block + i, b); STORE(q->counter_low + i, low); STORE(q->counter_high + i, high);
        b = ADD(b, ALL(8));
        UNROLL for (unsigned j = i; j < i + 8; j += 4) {
            STORE(q->key + j, k); STORE(q->src + j, s); STORE(q->dst + j, d);
            s = _mm256_add_epi64(s, four); d = _mm256_add_epi64(d, four);
        }
    }
    q->count = n + count;
}

/* Between a packet's last bytes (1 to 63) and a slot of 64. */
TARGET INLINE void tail_in(u8 *slot, const u8 *src, unsigned length)
{
    memset(slot, 0, 64);
    memcpy(slot, src, length);
}
TARGET INLINE void tail_out(u8 *dst, const u8 *slot, unsigned length) { memcpy(dst, slot, length); }
