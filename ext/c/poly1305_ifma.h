/* Poly1305 (RFC 8439 2.5) with AVX-512 IFMA, in registers of WIDTH bits: 256 or 512. Included once
 * for each.
 *
 * Theory: numbers are in limbs of 44, 44 and 42 bits. VPMADD52 adds the low or the high 52 bits of
 * a product: the low ones at the product's own weight, the high ones at 2^52 = 2^44 * 2^8, hence
 * the shifts by 8 (by 10 for the top limb) when carrying; 2^132 = 4 * 5 modulo 2^130 - 5, hence
 * s = 20 r.
 *
 * Two ways to fill the lanes. In `poly_lanes` each lane has a packet of its own, and so its own r,
 * and takes four blocks a step with r^4 .. r. Lanes of unequal length are aligned at their ends: a
 * lane starts late, at a multiple of four blocks from the end, with leading blocks that are zero
 * and lack the 2^128 bit, and so leave its sum at zero. In `poly_single` all lanes work on one
 * packet, block by block in turn; that pays for a few long packets. */
#include "poly1305_scalar.h"

#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)
#define N(name) PASTE(PASTE(name, _), WIDTH)
#define MM(op) PASTE(PASTE(_mm, MM_WIDTH), PASTE(_, op))
#if WIDTH == 256
#define MM_WIDTH 256
#define LANES 4
#define REG __m256i
#else
#define MM_WIDTH 512
#define LANES 8
#define REG __m512i
#endif

typedef u64 N(vec) __attribute__((vector_size(WIDTH / 8), may_alias));
typedef u64 N(anywhere) __attribute__((vector_size(WIDTH / 8), may_alias, aligned(1)));
#define VEC N(vec)
#define SET(x) ((VEC){0} + (u64)(x))
#define MADD_LOW(acc, a, b) acc = (VEC)MM(madd52lo_epu64)((REG)(acc), (REG)(a), (REG)(b))
#define MADD_HIGH(acc, a, b) acc = (VEC)MM(madd52hi_epu64)((REG)(acc), (REG)(a), (REG)(b))
#define UNPACK_LOW(a, b) ((VEC)MM(unpacklo_epi64)((REG)(a), (REG)(b)))
#define UNPACK_HIGH(a, b) ((VEC)MM(unpackhi_epi64)((REG)(a), (REG)(b)))
#define HIGH_BIT (1ULL << 40)          /* 2^128 in the top limb */

typedef struct { VEC r0, r1, r2, s1, s2; } N(power);
typedef struct { VEC l0, l1, l2, h0, h1, h2; } N(sums);
typedef struct { VEC v[3]; } N(limbs);
#define POWER N(power)
#define SUMS N(sums)
#define LIMBS N(limbs)

TARGET INLINE void N(multiply_add)(SUMS *d, VEC a0, VEC a1, VEC a2, const POWER *p)
{
    MADD_LOW(d->l0, a0, p->r0); MADD_HIGH(d->h0, a0, p->r0);
    MADD_LOW(d->l1, a0, p->r1); MADD_HIGH(d->h1, a0, p->r1);
    MADD_LOW(d->l2, a0, p->r2); MADD_HIGH(d->h2, a0, p->r2);
    MADD_LOW(d->l0, a1, p->s2); MADD_HIGH(d->h0, a1, p->s2);
    MADD_LOW(d->l1, a1, p->r0); MADD_HIGH(d->h1, a1, p->r0);
    MADD_LOW(d->l2, a1, p->r1); MADD_HIGH(d->h2, a1, p->r1);
    MADD_LOW(d->l0, a2, p->s1); MADD_HIGH(d->h0, a2, p->s1);
    MADD_LOW(d->l1, a2, p->s2); MADD_HIGH(d->h1, a2, p->s2);
    MADD_LOW(d->l2, a2, p->r0); MADD_HIGH(d->h2, a2, p->r0);
}

TARGET INLINE LIMBS N(carry)(const SUMS *d)
{
    LIMBS a;
    VEC l1 = d->l1 + (d->h0 << 8) + (d->l0 >> 44);
    VEC l2 = d->l2 + (d->h1 << 8) + (l1 >> 44);
    VEC over = (d->h2 << 10) + (l2 >> 42);
    VEC t0 = (d->l0 & MASK44) + over + (over << 2);
    a.v[0] = t0 & MASK44;
    a.v[1] = (l1 & MASK44) + (t0 >> 44);
    a.v[2] = l2 & MASK42;
    return a;
}

TARGET INLINE void N(power_set)(POWER *p, VEC a0, VEC a1, VEC a2)
{
    p->r0 = a0; p->r1 = a1; p->r2 = a2;
    p->s1 = (a1 + (a1 << 2)) << 2;
    p->s2 = (a2 + (a2 << 2)) << 2;
}

TARGET INLINE void N(power_multiply)(POWER *product, const POWER *x, const POWER *y)
{
    SUMS d = {0};
    N(multiply_add)(&d, x->r0, x->r1, x->r2, y);
    LIMBS a = N(carry)(&d);
    N(power_set)(product, a.v[0], a.v[1], a.v[2]);
}

/* p[0] stands; p[1], p[2], p[3] become its second to fourth power. */
TARGET INLINE void N(powers)(POWER p[4])
{
    N(power_multiply)(&p[1], &p[0], &p[0]);
    N(power_multiply)(&p[2], &p[1], &p[0]);
    N(power_multiply)(&p[3], &p[1], &p[1]);
}

/* (x >> 44 | y << 20) & mask: the middle limb */
#define MIDDLE(x, y, mask) ((VEC)MM(ternarylogic_epi64)( \
    (REG)((x) >> 44), (REG)((y) << 20), (REG)SET(mask), 0xa8))
/* Bits 52 to 87 of a block, at the weight of bit 44. */
#define ROUGH(x, y) MIDDLE(x, y, MASK44 & ~0xffULL)

TARGET INLINE LIMBS N(split)(VEC low, VEC high)
{
    LIMBS m = {{low & MASK44, MIDDLE(low, high, MASK44), high >> 24}};
    return m;
}

/* The 2^128 bits of those of four blocks that exist (from `lead` on), times their powers of r. */
TARGET INLINE LIMBS N(high_bits)(const POWER p[4], VEC lead)
{
    const VEC none = {0};
    SUMS d = {0};
    UNROLL for (int b = 0; b < 4; b++) {
        VEC bit = (VEC)MM(maskz_mov_epi64)(
            MM(cmple_epi64_mask)((REG)lead, (REG)SET(b)), (REG)SET(HIGH_BIT));
        N(multiply_add)(&d, none, none, bit, &p[3 - b]);
    }
    return N(carry)(&d);
}

/* Blocks 2h and 2h + 1 of 64 bytes in each lane, transposed, mostly by loads: an insert from memory
 * can run on more ports than a shuffle. */
#if WIDTH == 256
TARGET INLINE void N(load_blocks)(VEC low[2], VEC high[2], const u8 *const c[LANES], int h)
{
#define HALF(p, o) _mm_loadu_si128((const __m128i *)((p) + 32 * h + 16 * (o)))
#define BOTH(a, b, o) \
    ((VEC)_mm256_inserti128_si256(_mm256_castsi128_si256(HALF(a, o)), HALF(b, o), 1))
    UNROLL for (int o = 0; o < 2; o++) {
        VEC x = BOTH(c[0], c[2], o), y = BOTH(c[1], c[3], o);
        low[o] = UNPACK_LOW(x, y);
        high[o] = UNPACK_HIGH(x, y);
    }
#undef HALF
#undef BOTH
}
#else
TARGET INLINE void N(load_blocks)(VEC low[2], VEC high[2], const u8 *const c[LANES], int h)
{
#define HALF(p) _mm256_loadu_si256((const __m256i *)((p) + 32 * h))
#define BOTH(a, b) ((VEC)_mm512_inserti64x4(_mm512_castsi256_si512(HALF(a)), HALF(b), 1))
#define SHUFFLE(a, b, how) ((VEC)_mm512_shuffle_i64x2((REG)(a), (REG)(b), how))
    VEC a0 = BOTH(c[0], c[2]), a1 = BOTH(c[1], c[3]), a2 = BOTH(c[4], c[6]), a3 = BOTH(c[5], c[7]);
    VEC t0 = UNPACK_LOW(a0, a1), t1 = UNPACK_HIGH(a0, a1);
    VEC t2 = UNPACK_LOW(a2, a3), t3 = UNPACK_HIGH(a2, a3);
    low[0] = SHUFFLE(t0, t2, 0x88); high[0] = SHUFFLE(t1, t3, 0x88);
    low[1] = SHUFFLE(t0, t2, 0xdd); high[1] = SHUFFLE(t1, t3, 0xdd);
#undef HALF
#undef BOTH
#undef SHUFFLE
}
#endif

typedef struct {
    LIMBS sum;
    POWER p[4];                        /* r^1 .. r^4 */
    const u8 *at[LANES];
    size_t stride[LANES];              /* 0: the lane idles */
    ALIGNED long long lead[LANES];     /* blocks missing in the next group; 4: idle */
} N(lanes);
#define LANE_STATE N(lanes)

/* `count` groups of four blocks in every lane. The 2^128 bits are in k from the start. As VPMADD52
 * reads only the low 52 bits of a factor, blocks 1 to 3 need no exact limbs: bits 0-51 (no
 * instruction), 52-87 shifted by 8, 88-127. Two sets of sums, as one has too few chains to hide the
 * latency. */
TARGET NOINLINE void N(groups)(LANE_STATE *s, unsigned count)
{
    const LIMBS k = N(high_bits)(s->p, *(const VEC *)s->lead);
    LIMBS a = s->sum;
    const u8 *c[LANES];
    UNROLL for (int i = 0; i < LANES; i++) c[i] = s->at[i];
    do {
        VEC low[2], high[2];
        SUMS d = {.l0 = k.v[0], .l1 = k.v[1], .l2 = k.v[2]}, e = {0};
        N(load_blocks)(low, high, c, 1);
        N(multiply_add)(&d, low[1], ROUGH(low[1], high[1]), high[1] >> 24, &s->p[0]);
        N(multiply_add)(&e, low[0], ROUGH(low[0], high[0]), high[0] >> 24, &s->p[1]);
        N(load_blocks)(low, high, c, 0);
        N(multiply_add)(&d, low[1], ROUGH(low[1], high[1]), high[1] >> 24, &s->p[2]);
        LIMBS m = N(split)(low[0], high[0]);
        N(multiply_add)(&e, m.v[0] + a.v[0], m.v[1] + a.v[1], m.v[2] + a.v[2], &s->p[3]);
        d.l0 += e.l0; d.l1 += e.l1; d.l2 += e.l2;
        d.h0 += e.h0; d.h1 += e.h1; d.h2 += e.h2;
        a = N(carry)(&d);
        UNROLL for (int i = 0; i < LANES; i++) c[i] += s->stride[i];
    } while (--count);
    UNROLL for (int i = 0; i < LANES; i++) s->at[i] = c[i];
    s->sum = a;
}

/* The bytes of text[0, length) that fall into a register's worth from `offset` on, zeros elsewhere.
 * Bytes that the mask leaves out are not touched. */
TARGET INLINE REG N(piece)(const u8 *text, long offset, long length)
{
    const long size = WIDTH / 8, end = length - offset;
    u64 mask = end <= 0 ? 0 : end >= size ? ~0ULL : _bzhi_u64(~0ULL, (unsigned)end);
    if (offset < 0)
        mask = offset <= -size ? 0 : mask & ~0ULL << -offset;
    const void *from = (const void *)((uintptr_t)text + (size_t)offset);
#if WIDTH == 256
    return _mm256_maskz_loadu_epi8((__mmask32)mask, from);
#else
    return _mm512_maskz_loadu_epi8(mask, from);
#endif
}

TARGET INLINE void N(copy_64)(u8 *slot, const u8 *text, long offset, long length)
{
    UNROLL for (int i = 0; i < 512 / WIDTH; i++)
        *(REG *)(slot + WIDTH / 8 * i) = N(piece)(text, offset + WIDTH / 8 * i, length);
}

/* h modulo 2^130 - 5, plus s */
TARGET INLINE void N(finish)(LIMBS a, VEC s_low, VEC s_high, u64 *tag_low, u64 *tag_high)
{
    VEC h0 = a.v[0], h1 = a.v[1], h2 = a.v[2], c;
    UNROLL for (int i = 0; i < 2; i++) {
        h1 += h0 >> 44; h0 &= MASK44;
        h2 += h1 >> 44; h1 &= MASK44;
        c = h2 >> 42; h2 &= MASK42;
        h0 += c + (c << 2);
    }
    h1 += h0 >> 44; h0 &= MASK44;
    /* g = h + 5 - 2^130, taken where it is not negative */
    VEC g0 = h0 + 5, g1 = h1 + (g0 >> 44), g2 = h2 + (g1 >> 44);
    __mmask8 take = MM(cmpgt_epu64_mask)((REG)g2, (REG)SET(MASK42));
    h0 = (VEC)MM(mask_mov_epi64)((REG)h0, take, (REG)(g0 & MASK44));
    h1 = (VEC)MM(mask_mov_epi64)((REG)h1, take, (REG)(g1 & MASK44));
    h2 = (VEC)MM(mask_mov_epi64)((REG)h2, take, (REG)(g2 & MASK42));
    VEC low = (h0 | h1 << 44) + s_low, high = (h1 >> 20 | h2 << 24) + s_high;
    __mmask8 carry = MM(cmplt_epu64_mask)((REG)low, (REG)s_low);
    high = (VEC)MM(mask_add_epi64)((REG)high, carry, (REG)high, (REG)SET(1));
    *(VEC *)tag_low = low;
    *(VEC *)tag_high = high;
}

/* Packets at .. at + LANES - 1 of the job, one in each lane. */
TARGET NOINLINE void N(poly_lanes)(struct poly_job *j, unsigned at)
{
    static const size_t still[LANES] = {0};
    LANE_STATE s = {.sum = {{{0}}}};
    VEC low[2], high[2], s_low, s_high;
    ALIGNED u8 slot[LANES][64];
    ALIGNED long long lead[LANES];
    unsigned start[LANES], groups = 0;
    const u8 *const *key = j->key + at, *const *text = j->text + at;
    const u32 *length = j->length + at;

    N(load_blocks)(low, high, key, 0);
    s_low = low[1]; s_high = high[1];
    LIMBS r = N(split)(low[0] & CLAMP_LOW, high[0] & CLAMP_HIGH);
    N(power_set)(&s.p[0], r.v[0], r.v[1], r.v[2]);
    N(powers)(s.p);
    for (int i = 0; i < LANES; i++) {
        unsigned blocks = poly_blocks(length[i]);
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
                s.at[i] = text[i]; s.stride[i] = 64;
                s.lead[i] = lead[i]; partial |= lead[i] != 0;
            } else if (start[i] > g && start[i] < next) {
                next = start[i];
            }
        }
        if (partial) {                 /* some lane's first group, with leading zero blocks */
            for (int i = 0; i < LANES; i++) {
                if (start[i] != g || lead[i] == 0)
                    continue;
                N(copy_64)(slot[i], text[i], -16 * (long)lead[i], length[i]);
                s.at[i] = slot[i];
            }
            N(groups)(&s, 1);
            for (int i = 0; i < LANES; i++) {
                if (start[i] != g || lead[i] == 0)
                    continue;
                s.at[i] = text[i] + 64 - 16 * lead[i];
                s.lead[i] = 0;
            }
            g++;
        }
        if (next > g)
            N(groups)(&s, next - g);
        g = next;
    }
    for (int i = 0; i < LANES; i++) {  /* the last four: up to three of text, and the lengths */
        N(copy_64)(slot[i], text[i], (long)((length[i] + 15) & ~15u) - 48, length[i]);
        store64(slot[i] + 56, length[i]);
        s.at[i] = slot[i];
        s.lead[i] = start[i] == groups - 1 ? lead[i] : 0;
    }
    memcpy(s.stride, still, sizeof still);
    N(groups)(&s, 1);
    N(finish)(s.sum, s_low, s_high, j->tag_low + at, j->tag_high + at);
}

#define BLEND(p, mask, x, y) N(power_set)(p, \
    (VEC)MM(mask_mov_epi64)((REG)(x)->r0, mask, (REG)(y)->r0), \
    (VEC)MM(mask_mov_epi64)((REG)(x)->r1, mask, (REG)(y)->r1), \
    (VEC)MM(mask_mov_epi64)((REG)(x)->r2, mask, (REG)(y)->r2))
#define PERMUTE(p, order, x) N(power_set)(p, \
    (VEC)MM(permutexvar_epi64)((REG)(order), (REG)(x)->r0), \
    (VEC)MM(permutexvar_epi64)((REG)(order), (REG)(x)->r1), \
    (VEC)MM(permutexvar_epi64)((REG)(order), (REG)(x)->r2))

/* r^LANES in lane 0 down to r in the last, from r in all of them. */
TARGET INLINE void N(power_staircase)(POWER *v, const POWER *r)
{
    POWER r2, w;
    N(power_multiply)(&r2, r, r);
    BLEND(v, 0x55, r, &r2);            /* from the last lane: r, r^2, r, r^2, .. */
    N(power_multiply)(&w, v, &r2);
    BLEND(v, 0x33, v, &w);             /* r, r^2, r^3, r^4, r, .. */
#if LANES == 8
    POWER r4;
    const VEC zero = {0};
    PERMUTE(&r4, zero, v);
    N(power_multiply)(&w, v, &r4);
    BLEND(v, 0x0f, v, &w);
#endif
}

/* One packet in all lanes. */
TARGET NOINLINE void N(poly_single)(struct poly_job *j, unsigned at)
{
    const VEC zero = {0};
    /* unpacking leaves the lanes with these of LANES successive blocks */
#if LANES == 4
    const VEC order = {0, 2, 1, 3};
#else
    const VEC order = {0, 4, 1, 5, 2, 6, 3, 7};
#endif
    const u8 *key = j->key[at], *text = j->text[at];
    const long length = (long)j->length[at], step = 64 * LANES, half = WIDTH / 8;
    POWER r, v, p[4];
    LIMBS m, a = {{zero, zero, zero}}, k = a, last = a;

    m = N(split)(SET(load64(key) & CLAMP_LOW), SET(load64(key + 8) & CLAMP_HIGH));
    N(power_set)(&r, m.v[0], m.v[1], m.v[2]);
    N(power_staircase)(&v, &r);
    PERMUTE(&p[0], zero, &v);          /* r^LANES */
    N(powers)(p);

    const long blocks = (long)poly_blocks((u32)length), per = 4 * LANES;
    const long groups = (blocks + per - 1) / per, lead = per * groups - blocks;
    if (groups > 2)
        k = N(high_bits)(p, zero);
    for (long g = 0; g < groups; g++) {
        const int end = g == groups - 1;
        SUMS d = {.l0 = zero}, e = {.l0 = zero};
        if (g != 0 && !end) {
            const u8 *from = text + (step * g - 16 * lead);
            d.l0 = k.v[0]; d.l1 = k.v[1]; d.l2 = k.v[2];
            UNROLL for (int b = 3; b >= 0; b--) {
                VEC x = *(const N(anywhere) *)(from + 2 * half * b);
                VEC y = *(const N(anywhere) *)(from + 2 * half * b + half);
                m = N(split)(UNPACK_LOW(x, y), UNPACK_HIGH(x, y));
                if (b == 0) { m.v[0] += a.v[0]; m.v[1] += a.v[1]; m.v[2] += a.v[2]; }
                N(multiply_add)(b & 1 ? &d : &e, m.v[0], m.v[1], m.v[2], &p[3 - b]);
            }
        } else {
            /* In the last group the last vector must not be multiplied by r^LANES: see below. */
            UNROLL for (int b = 3; b >= 0; b--) {
                long offset = step * g + 2 * half * b - 16 * lead;
                VEC x = (VEC)N(piece)(text, offset, length);
                VEC y = (VEC)N(piece)(text, offset + half, length);
                if (end && b == 3)
                    y = (VEC)MM(mask_set1_epi64)((REG)y, 1 << (LANES - 1), length);
                m = N(split)(UNPACK_LOW(x, y), UNPACK_HIGH(x, y));
                VEC number = order + (u64)(per * g + LANES * b);
                m.v[2] |= (VEC)MM(maskz_mov_epi64)(
                    MM(cmpge_epi64_mask)((REG)number, (REG)SET(lead)), (REG)SET(HIGH_BIT));
                if (b == 0) { m.v[0] += a.v[0]; m.v[1] += a.v[1]; m.v[2] += a.v[2]; }
                if (end && b == 3)
                    last = m;
                else
                    N(multiply_add)(b & 1 ? &d : &e, m.v[0], m.v[1], m.v[2], &p[3 - b - end]);
            }
        }
        d.l0 += e.l0; d.l1 += e.l1; d.l2 += e.l2;
        d.h0 += e.h0; d.h1 += e.h1; d.h2 += e.h2;
        a = N(carry)(&d);
    }
    SUMS d = {.l0 = zero};
    PERMUTE(&r, order, &v);
    N(multiply_add)(&d, a.v[0] + last.v[0], a.v[1] + last.v[1], a.v[2] + last.v[2], &r);
    a = N(carry)(&d);
    u64 h[3] = {0, 0, 0};
    UNROLL for (int i = 0; i < 3; i++)
        UNROLL for (int lane = 0; lane < LANES; lane++) h[i] += a.v[i][lane];
    poly_finish_44(h[0], h[1], h[2], key, &j->tag_low[at], &j->tag_high[at]);
}

/* `count` <= LANES packets from `at` on, by what is cheapest; cycles, fitted to measurements. */
TARGET static void N(poly_some)(struct poly_job *j, unsigned at, unsigned count)
{
    unsigned groups = 0, scalar = 0, single = 0;
    for (unsigned i = at; i < at + count; i++) {
        unsigned blocks = poly_blocks(j->length[i]), g = (blocks + 3) / 4;
        if (g > groups)
            groups = g;
        scalar += 80 + 20 * blocks;
        single += WIDTH == 256 ? 235 + (blocks + 15) / 16 * 67 : 265 + (blocks + 31) / 32 * 105;
    }
    const unsigned lanes = WIDTH == 256 ? 390 + groups * 56 : 380 + groups * 79;
    if (lanes <= scalar && lanes <= single)
        N(poly_lanes)(j, at);
    else if (single < scalar)
        for (unsigned i = at; i < at + count; i++) N(poly_single)(j, i);
    else
        for (unsigned i = at; i < at + count; i++) poly1305_scalar(j, i);
}

/* What the driver calls. */
TARGET static void N(poly1305)(struct poly_job *j, unsigned count)
{
    for (unsigned at = 0; at < count; at += LANES)
        N(poly_some)(j, at, count - at < LANES ? count - at : LANES);
}

#undef PASTE_
#undef PASTE
#undef N
#undef MM
#undef MM_WIDTH
#undef LANES
#undef REG
#undef VEC
#undef SET
#undef MADD_LOW
#undef MADD_HIGH
#undef UNPACK_LOW
#undef UNPACK_HIGH
#undef HIGH_BIT
#undef POWER
#undef SUMS
#undef LIMBS
#undef LANE_STATE
#undef MIDDLE
#undef ROUGH
#undef BLEND
#undef PERMUTE
#undef WIDTH
