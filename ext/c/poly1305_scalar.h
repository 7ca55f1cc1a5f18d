/* Poly1305 (RFC 8439 2.5) in general registers, for so little text that the vector code's fixed cost
 * (powers of r, transposes) would dominate; and what ends every computation. */
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

/* One block costs a chain of multiplications and carries; two in one step, by r^2 and r, little more. */
INLINE struct limbs step_one(struct limbs h, const struct limbs *r, const u64 b[2])
{
    struct sums d = {{0, 0, 0}};
    add_product(&d, plus_block(h, b[0], b[1]), r);
    return carried(d);
}

INLINE struct limbs step_two(
    struct limbs h, const struct limbs *r, const struct limbs *r2, u64 b0, u64 b1, u64 b2, u64 b3)
{
    const struct limbs none = {{0, 0, 0}};
    struct sums d = {{0, 0, 0}};
    add_product(&d, plus_block(none, b2, b3), r);
    add_product(&d, plus_block(h, b0, b1), r2);
    return carried(d);
}

TARGET INLINE void poly1305_scalar(struct poly_job *j, unsigned at)
{
    const u8 *key = j->key[at], *p = j->text[at];
    const u64 low = load64(key) & CLAMP_LOW, high = load64(key + 8) & CLAMP_HIGH;
    const struct limbs r = {{low & MASK44, (low >> 44 | high << 20) & MASK44, high >> 24}};
    struct limbs h = {{0, 0, 0}}, r2;
    struct sums square = {{0, 0, 0}};
    u64 last[6] = {0};
    u32 left = j->length[at];

    add_product(&square, r, &r);
    r2 = carried(square);
    for (; left >= 32; left -= 32, p += 32)
        h = step_two(h, &r, &r2, load64(p), load64(p + 8), load64(p + 16), load64(p + 24));
    /* up to one full block, one partial block, and the lengths (RFC 8439 2.8) */
    memcpy(last, p, left);
    unsigned blocks = (left + 15) / 16;
    last[2 * blocks + 1] = j->length[at];
    if (blocks == 1) {
        h = step_two(h, &r, &r2, last[0], last[1], last[2], last[3]);
    } else {
        h = step_one(h, &r, last);
        if (blocks == 2)
            h = step_two(h, &r, &r2, last[2], last[3], last[4], last[5]);
    }
    poly_finish_44(h.v[0], h.v[1], h.v[2], key, &j->tag_low[at], &j->tag_high[at]);
}

#endif
