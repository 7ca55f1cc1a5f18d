/* Poly1305 (RFC 8439 2.5) in general registers, for so little text that the vector code's fixed
 * cost (powers of r, transposes) would dominate; and what ends every computation. */
#ifndef FIREZONE_POLY1305_SCALAR_H
#define FIREZONE_POLY1305_SCALAR_H

#include "aead_work.h"

#define CLAMP_LOW 0x0ffffffc0fffffffULL
#define CLAMP_HIGH 0x0ffffffc0ffffffcULL
#define MASK44 0xfffffffffffULL
#define MASK42 0x3ffffffffffULL

/* The tag: h modulo 2^130 - 5, plus s. h = top:low, partly reduced: top is small. */
INLINE void poly_finish(u128 h, u64 top, const u8 *key, u64 *tag_low, u64 *tag_high)
{
    u128 folded = (u128)(top >> 2) * 5;
    top &= 3; h += folded; top += h < folded;
    u128 less = h + 5;
    u64 less_top = top + (less < 5);
    u128 take = (u128)0 - (u128)(less_top >> 2);      /* all ones where h >= 2^130 - 5 */
    h = (less & take) | (h & ~take);
    h += (u128)load64(key + 24) << 64 | load64(key + 16);
    *tag_low = (u64)h;
    *tag_high = (u64)(h >> 64);
}

/* From limbs of 2^44, the top one of up to 64 bits. */
INLINE void poly_finish_44(u64 h0, u64 h1, u64 h2, const u8 *key, u64 *tag_low, u64 *tag_high)
{
    u128 low = (u128)h0 + ((u128)h1 << 44);
    u128 sum = low + ((u128)(h2 & 0xffffffffffULL) << 88);
    poly_finish(sum, (h2 >> 40) + (sum < low), key, tag_low, tag_high);
}

struct limbs { u64 v[3]; };                 /* of 44, 44 and 42 bits, a little over allowed */
struct sums { u128 v[3]; };

/* 2^132 = 4 * 5, hence the factors of 20 */
INLINE void add_product(struct sums *d, struct limbs a, const struct limbs *r)
{
    const u64 s1 = 20 * r->v[1], s2 = 20 * r->v[2];
    d->v[0] += (u128)a.v[0] * r->v[0] + (u128)a.v[1] * s2 + (u128)a.v[2] * s1;
    d->v[1] += (u128)a.v[0] * r->v[1] + (u128)a.v[1] * r->v[0] + (u128)a.v[2] * s2;
    d->v[2] += (u128)a.v[0] * r->v[2] + (u128)a.v[1] * r->v[1] + (u128)a.v[2] * r->v[0];
}

INLINE struct limbs carried(struct sums d)
{
    struct limbs h;
    d.v[1] += (u64)(d.v[0] >> 44);
    d.v[2] += (u64)(d.v[1] >> 44);
    h.v[0] = ((u64)d.v[0] & MASK44) + (u64)(d.v[2] >> 42) * 5;
    h.v[1] = ((u64)d.v[1] & MASK44) + (h.v[0] >> 44);
    h.v[0] &= MASK44;
    h.v[2] = (u64)d.v[2] & MASK42;
    return h;
}

INLINE struct limbs plus_block(struct limbs h, u64 low, u64 high)
{
    h.v[0] += low & MASK44;
    h.v[1] += (low >> 44 | high << 20) & MASK44;
    h.v[2] += high >> 24 | 1ULL << 40;
    return h;
}

/* `count` <= 4 blocks at once, by r^count .. r: a block alone costs a long chain of multiplications
 * and carries. power[i] = r^(i + 1). */
INLINE struct limbs step(struct limbs h, const struct limbs *power, const u8 *p, const int count)
{
    const struct limbs none = {{0, 0, 0}};
    struct sums d = {{0, 0, 0}};
    UNROLL for (int i = count - 1; i >= 0; i--)
        add_product(&d, plus_block(i ? none : h, load64(p + 16 * i), load64(p + 16 * i + 8)),
                    &power[count - 1 - i]);
    return carried(d);
}

INLINE struct limbs product(struct limbs a, const struct limbs *b)
{
    struct sums d = {{0, 0, 0}};
    add_product(&d, a, b);
    return carried(d);
}

/* The packet `at` of the job. */
TARGET NOINLINE void poly1305_scalar(struct poly_job *j, unsigned at)
{
    const u8 *key = j->key[at], *p = j->text[at];
    const u64 low = load64(key) & CLAMP_LOW, high = load64(key + 8) & CLAMP_HIGH;
    struct limbs power[4] = {{{low & MASK44, (low >> 44 | high << 20) & MASK44, high >> 24}}};
    struct limbs h = {{0, 0, 0}};
    ALIGNED u8 last[64] = {0};
    u32 left = j->length[at];

    power[1] = product(power[0], &power[0]);
    if (left > 32) {
        power[2] = product(power[1], &power[0]);
        power[3] = product(power[1], &power[1]);
    }
    for (; left >= 64; left -= 64, p += 64)
        h = step(h, power, p, 4);
    for (; left >= 32; left -= 32, p += 32)
        h = step(h, power, p, 2);
    /* up to one full block, one partial block, and the lengths (RFC 8439 2.8) */
    const unsigned blocks = (left + 15) / 16;
    memcpy(last, p, left);
    store64(last + 16 * blocks + 8, j->length[at]);
    h = blocks == 0 ? step(h, power, last, 1)
        : blocks == 1 ? step(h, power, last, 2)
        : step(step(h, power, last, 1), power, last + 16, 2);
    poly_finish_44(h.v[0], h.v[1], h.v[2], key, &j->tag_low[at], &j->tag_high[at]);
}

#endif
