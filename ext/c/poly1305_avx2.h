/* Poly1305 (RFC 8439 2.5) with AVX2: five limbs of 26 bits, VPMULUDQ; 2^130 = 5 modulo 2^130 - 5,
 * hence s = 5 r. The scheme is that of poly1305_ifma.h: `poly_lanes` has one packet in each of four
 * lanes, aligned at their ends, `poly_single` has one packet in all four. */
#include "poly1305_scalar.h"

typedef u64 vec __attribute__((vector_size(32), may_alias));
typedef u64 anywhere __attribute__((vector_size(32), may_alias, aligned(1)));
typedef struct { vec v[5]; } limbs26;
typedef struct { vec r[5], s[5]; } power;

enum { LANES = 4 };
#define MASK26 0x3ffffffULL
#define HIGH_BIT (1ULL << 24)          /* 2^128 in the top limb */
#define SET(x) ((vec)_mm256_set1_epi64x((long long)(x)))
#define LOAD_VEC(p) (*(const anywhere *)(p))
#define MULTIPLY(a, b) ((vec)_mm256_mul_epu32((__m256i)(a), (__m256i)(b)))

TARGET INLINE void multiply_add(limbs26 *d, const limbs26 *a, const power *p)
{
    UNROLL for (int j = 0; j < 5; j++)
        UNROLL for (int i = 0; i < 5; i++)
            d->v[i] += MULTIPLY(a->v[j], i >= j ? p->r[i - j] : p->s[5 + i - j]);
}

/* Two interleaved chains. */
TARGET INLINE limbs26 carry(const limbs26 *d)
{
    vec h0 = d->v[0], h1 = d->v[1], h2 = d->v[2], h3 = d->v[3], h4 = d->v[4], c;
    h1 += h0 >> 26; h0 &= MASK26;
    h4 += h3 >> 26; h3 &= MASK26;
    h2 += h1 >> 26; h1 &= MASK26;
    c = h4 >> 26; h4 &= MASK26; h0 += c + (c << 2);
    h3 += h2 >> 26; h2 &= MASK26;
    h1 += h0 >> 26; h0 &= MASK26;
    h4 += h3 >> 26; h3 &= MASK26;
    h2 += h1 >> 26; h1 &= MASK26;
    limbs26 a = {{h0, h1, h2, h3, h4}};
    return a;
}

TARGET INLINE void power_set(power *p, const limbs26 *a)
{
    UNROLL for (int i = 0; i < 5; i++) {
        p->r[i] = a->v[i];
        p->s[i] = a->v[i] + (a->v[i] << 2);
    }
}

TARGET NOINLINE void power_multiply(power *product, const power *x, const power *y)
{
    limbs26 a = {{x->r[0], x->r[1], x->r[2], x->r[3], x->r[4]}}, d = {{{0}}};
    multiply_add(&d, &a, y);
    a = carry(&d);
    power_set(product, &a);
}

TARGET INLINE void powers(power p[4])
{
    power_multiply(&p[1], &p[0], &p[0]);
    power_multiply(&p[2], &p[1], &p[0]);
    power_multiply(&p[3], &p[1], &p[1]);
}

TARGET INLINE limbs26 split(vec low, vec high)
{
    limbs26 m = {{
        low & MASK26, low >> 26 & MASK26, (low >> 52 | high << 12) & MASK26, high >> 14 & MASK26,
        high >> 40,
    }};
    return m;
}

#define UNPACK_LOW(a, b) ((vec)_mm256_unpacklo_epi64((__m256i)(a), (__m256i)(b)))
#define UNPACK_HIGH(a, b) ((vec)_mm256_unpackhi_epi64((__m256i)(a), (__m256i)(b)))
#define PAIR(a, b, how) ((vec)_mm256_permute2x128_si256((__m256i)(a), (__m256i)(b), how))

/* Blocks 2h and 2h + 1 of 64 bytes in each lane. */
TARGET INLINE void load_blocks(vec low[2], vec high[2], const u8 *const c[LANES], int h)
{
    vec v0 = LOAD_VEC(c[0] + 32 * h), v1 = LOAD_VEC(c[1] + 32 * h);
    vec v2 = LOAD_VEC(c[2] + 32 * h), v3 = LOAD_VEC(c[3] + 32 * h);
    vec u0 = UNPACK_LOW(v0, v1), u1 = UNPACK_HIGH(v0, v1);
    vec u2 = UNPACK_LOW(v2, v3), u3 = UNPACK_HIGH(v2, v3);
    low[0] = PAIR(u0, u2, 0x20); high[0] = PAIR(u1, u3, 0x20);
    low[1] = PAIR(u0, u2, 0x31); high[1] = PAIR(u1, u3, 0x31);
}

/* The 2^128 bits of those of four blocks that exist (from `lead` on), times their powers of r. */
TARGET NOINLINE void high_bits(limbs26 *k, const power p[4], const long long lead[LANES])
{
    limbs26 d = {{{0}}};
    UNROLL for (int b = 0; b < 4; b++) {
        vec missing = (vec)_mm256_cmpgt_epi64(*(const __m256i *)lead, _mm256_set1_epi64x(b));
        vec bit = ~missing & HIGH_BIT;
        UNROLL for (int i = 0; i < 4; i++) d.v[i] += MULTIPLY(bit, p[3 - b].s[i + 1]);
        d.v[4] += MULTIPLY(bit, p[3 - b].r[0]);
    }
    *k = d;
}

typedef struct {
    limbs26 sum;
    power p[4];                        /* r^1 .. r^4 */
    const u8 *at[LANES];
    size_t stride[LANES];              /* 0: the lane idles */
    ALIGNED long long lead[LANES];     /* blocks missing in the next group; 4: idle */
} lane_state;

/* `count` groups of four blocks in every lane. */
TARGET NOINLINE void run_groups(lane_state *s, unsigned count)
{
    limbs26 k, a = s->sum;
    const u8 *c[LANES] = {s->at[0], s->at[1], s->at[2], s->at[3]};
    high_bits(&k, s->p, s->lead);
    do {
        vec low[2], high[2];
        limbs26 d = k, m;
        load_blocks(low, high, c, 1);
        m = split(low[1], high[1]); multiply_add(&d, &m, &s->p[0]);
        m = split(low[0], high[0]); multiply_add(&d, &m, &s->p[1]);
        load_blocks(low, high, c, 0);
        m = split(low[1], high[1]); multiply_add(&d, &m, &s->p[2]);
        m = split(low[0], high[0]);
        UNROLL for (int i = 0; i < 5; i++) m.v[i] += a.v[i];
        multiply_add(&d, &m, &s->p[3]);
        a = carry(&d);
        UNROLL for (int i = 0; i < LANES; i++) c[i] += s->stride[i];
    } while (--count);
    memcpy(s->at, c, sizeof c);
    s->sum = a;
}

/* Limbs may exceed 26 bits a little. */
INLINE void poly_finish_26(const u64 h[5], const u8 *key, u64 *tag_low, u64 *tag_high)
{
    u128 low = (u128)h[0] + ((u128)h[1] << 26) + ((u128)h[2] << 52) + ((u128)h[3] << 78);
    u128 sum = low + ((u128)(h[4] & 0xffffff) << 104);
    poly_finish(sum, (h[4] >> 24) + (sum < low), key, tag_low, tag_high);
}

/* The bytes of text[0, length) that fall into `size` bytes from `offset` on, zeros elsewhere. */
INLINE void copy_piece(u8 *slot, long size, const u8 *text, long offset, long length)
{
    long from = offset < 0 ? 0 : offset, to = offset + size < length ? offset + size : length;
    memset(slot, 0, (size_t)size);
    if (from < to)
        memcpy(slot + (from - offset), text + from, (size_t)(to - from));
}

/* A packet in each of four lanes. */
TARGET NOINLINE void poly_lanes(struct poly_job *j)
{
    lane_state s = {.sum = {{{0}}}};
    vec low[2], high[2];
    ALIGNED u8 slot[LANES][64];
    ALIGNED long long lead[LANES];
    unsigned start[LANES], groups = 0;

    load_blocks(low, high, j->key, 0);
    limbs26 r = split(low[0] & CLAMP_LOW, high[0] & CLAMP_HIGH);
    power_set(&s.p[0], &r);
    powers(s.p);
    for (int i = 0; i < LANES; i++) {
        unsigned blocks = poly_blocks(j->length[i]);
        start[i] = (blocks + 3) / 4;
        lead[i] = 4 * start[i] - blocks;
        if (start[i] > groups)
            groups = start[i];
    }
    for (int i = 0; i < LANES; i++) {
        start[i] = groups - start[i];
        s.at[i] = ZEROS; s.stride[i] = 0; s.lead[i] = 4;
    }
    for (unsigned g = 0; g + 1 < groups;) {
        unsigned next = groups - 1, partial = 0;
        for (int i = 0; i < LANES; i++) {
            if (start[i] == g) {
                s.at[i] = j->text[i]; s.stride[i] = 64;
                s.lead[i] = lead[i]; partial |= lead[i] != 0;
            } else if (start[i] > g && start[i] < next) {
                next = start[i];
            }
        }
        if (partial) {                 /* some lane's first group, with leading zero blocks */
            for (int i = 0; i < LANES; i++) {
                if (start[i] != g || lead[i] == 0)
                    continue;
                copy_piece(slot[i], 64, j->text[i], -16 * (long)lead[i], j->length[i]);
                s.at[i] = slot[i];
            }
            run_groups(&s, 1);
            for (int i = 0; i < LANES; i++) {
                if (start[i] != g || lead[i] == 0)
                    continue;
                s.at[i] = j->text[i] + 64 - 16 * lead[i];
                s.lead[i] = 0;
            }
            g++;
        }
        if (next > g)
            run_groups(&s, next - g);
        g = next;
    }
    for (int i = 0; i < LANES; i++) {  /* the last four: up to three of text, and the lengths */
        long padded = (long)((j->length[i] + 15) & ~15u);
        copy_piece(slot[i], 64, j->text[i], padded - 48, j->length[i]);
        store64(slot[i] + 56, j->length[i]);
        s.at[i] = slot[i]; s.stride[i] = 0;
        s.lead[i] = start[i] == groups - 1 ? lead[i] : 0;
    }
    run_groups(&s, 1);
    for (int i = 0; i < LANES; i++) {
        u64 h[5];
        UNROLL for (int l = 0; l < 5; l++) h[l] = s.sum.v[l][i];
        poly_finish_26(h, j->key[i], &j->tag_low[i], &j->tag_high[i]);
    }
}

/* `count` times four blocks in each lane, all of one packet. */
TARGET NOINLINE void run_single(limbs26 *sum, const power p[4], const u8 *from, long count)
{
    limbs26 a = *sum;
    for (; count > 0; count--, from += 256) {
        limbs26 d = {{{0}}}, m;
        UNROLL for (int b = 3; b >= 0; b--) {
            vec x = LOAD_VEC(from + 64 * b), y = LOAD_VEC(from + 64 * b + 32);
            m = split(UNPACK_LOW(x, y), UNPACK_HIGH(x, y));
            m.v[4] |= HIGH_BIT;
            if (b == 0)
                UNROLL for (int i = 0; i < 5; i++) m.v[i] += a.v[i];
            multiply_add(&d, &m, &p[3 - b]);
        }
        a = carry(&d);
    }
    *sum = a;
}

/* The same once, for the first and the last 256 bytes. Blocks before `lead` do not exist. With
 * `last` that gets the last vector, not multiplied, and the others are multiplied by one power
 * less. */
TARGET NOINLINE void edge_single(
    limbs26 *sum, const power *p, const u8 *from, long lead, limbs26 *last)
{
    const vec order = {0, 2, 1, 3};    /* unpacking leaves the lanes with these of 4 blocks */
    const int end = last != NULL;
    limbs26 d = {{{0}}}, m;
    for (int b = 3; b >= 0; b--) {
        vec x = LOAD_VEC(from + 64 * b), y = LOAD_VEC(from + 64 * b + 32);
        vec number = order + (u64)(4 * b + 1);
        vec exists = (vec)_mm256_cmpgt_epi64((__m256i)number, (__m256i)SET(lead));
        m = split(UNPACK_LOW(x, y), UNPACK_HIGH(x, y));
        m.v[4] |= exists & HIGH_BIT;
        if (b == 0)
            UNROLL for (int i = 0; i < 5; i++) m.v[i] += sum->v[i];
        if (b == 3 && end)
            *last = m;
        else
            multiply_add(&d, &m, &p[3 - b - end]);
    }
    *sum = carry(&d);
}

/* r^4 in lane 0 down to r in lane 3, from r in all of them. */
TARGET INLINE void power_staircase(power *v, const power *r)
{
    power r2, w;
    limbs26 a;
    power_multiply(&r2, r, r);
    UNROLL for (int i = 0; i < 5; i++)
        a.v[i] = (vec)_mm256_blend_epi32((__m256i)r->r[i], (__m256i)r2.r[i], 0x33);
    power_set(v, &a);
    power_multiply(&w, v, &r2);
    UNROLL for (int i = 0; i < 5; i++)
        a.v[i] = (vec)_mm256_blend_epi32((__m256i)v->r[i], (__m256i)w.r[i], 0x0f);
    power_set(v, &a);
}

#define PERMUTE(p, how, x) do { \
    limbs26 moved; \
    UNROLL for (int i = 0; i < 5; i++) \
        moved.v[i] = (vec)_mm256_permute4x64_epi64((__m256i)(x)->r[i], how); \
    power_set(p, &moved); \
} while (0)

/* One packet in all four lanes. */
TARGET NOINLINE void poly_single(struct poly_job *j, unsigned at)
{
    const u8 *key = j->key[at], *text = j->text[at];
    const long length = (long)j->length[at], blocks = (long)poly_blocks((u32)length);
    const long groups = (blocks + 15) / 16, lead = 16 * groups - blocks;
    ALIGNED u8 slot[256];
    power r, v, p[4];
    limbs26 a = {{{0}}}, d = a, last;

    limbs26 m = split(SET(load64(key) & CLAMP_LOW), SET(load64(key + 8) & CLAMP_HIGH));
    power_set(&r, &m);
    power_staircase(&v, &r);
    PERMUTE(&p[0], 0x00, &v);          /* r^4 */
    powers(p);
    if (groups > 1) {
        copy_piece(slot, 256, text, -16 * lead, length);
        edge_single(&a, p, slot, lead, NULL);
        run_single(&a, p, text + (256 - 16 * lead), groups - 2);
    }
    copy_piece(slot, 256, text, 256 * (groups - 1) - 16 * lead, length);
    store64(slot + 248, (u64)length);
    edge_single(&a, p, slot, groups == 1 ? lead : 0, &last);
    PERMUTE(&r, 0xd8, &v);             /* as the text's lanes stand */
    UNROLL for (int i = 0; i < 5; i++) a.v[i] += last.v[i];
    multiply_add(&d, &a, &r);
    a = carry(&d);
    u64 h[5];
    UNROLL for (int i = 0; i < 5; i++) h[i] = a.v[i][0] + a.v[i][1] + a.v[i][2] + a.v[i][3];
    poly_finish_26(h, key, &j->tag_low[at], &j->tag_high[at]);
}

/* What the driver calls. */

enum { POLY_LANES = LANES };

/* By what is cheapest; cycles, fitted to measurements. */
TARGET static void poly1305_avx2(struct poly_job *j, unsigned count)
{
    unsigned groups = 0, scalar = 0, single = 0;
    for (unsigned i = 0; i < count; i++) {
        unsigned blocks = poly_blocks(j->length[i]), g = (blocks + 3) / 4;
        if (g > groups)
            groups = g;
        scalar += 80 + 20 * blocks;
        single += 260 + (blocks + 15) / 16 * 230;
    }
    const unsigned lanes = 620 + groups * 125;
    if (lanes <= scalar && lanes <= single)
        poly_lanes(j);
    else if (single < scalar)
        for (unsigned i = 0; i < count; i++) poly_single(j, i);
    else
        for (unsigned i = 0; i < count; i++) poly1305_scalar(j, i);
}
