/* The Montgomery ladder of RFC 7748, section 5, in vectors: a lane for each scalar multiplication.
 *
 * A field element has five limbs of 51 bits, one vector each. AVX-512 IFMA multiplies numbers of 52
 * bits and adds the lower or the upper 52 bits of the product. So limbs that are multiplied must be
 * below 2^52: `carry` leaves less than 2^51 + 2^14 (that much for the lowest limb, of sums up to
 * 2^61), and every sum and difference goes through it. An upper half weighs 2^52 = 2 * 2^51: it
 * counts twice in the next limb.
 *
 * No branch and no address depends on a scalar or a point. X25519_PORTABLE replaces the two vector
 * instructions by plain C, so that tools which do not know them can look at all the rest;
 * X25519_BITS shortens the ladder for slow tools. */
#include "x25519.h"

#if defined(__x86_64__) || defined(X25519_PORTABLE)
#include <string.h>

#define NOINLINE static __attribute__((noinline))
#if defined(X25519_PORTABLE)
#define TARGET
#define INLINE static
#define UNROLL
#else
#include <immintrin.h>
#define TARGET __attribute__((target("avx2,avx512f,avx512vl,avx512ifma")))
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
/* Scheduling before registers are allotted lets the independent products of a step overlap: a
 * quarter less time. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("schedule-insns", "sched-pressure")
#endif
#endif

#if !defined(X25519_BITS)
#define X25519_BITS 255
#endif

enum { LIMBS = 5, LIMB_BITS = 51, SPILLS = 8192 };
static const uint64_t LIMB = ((uint64_t)1 << LIMB_BITS) - 1;
static const uint64_t A24 = 121665;

typedef uint64_t vec __attribute__((vector_size(8 * X25519_LANES)));
typedef struct { vec limb[LIMBS]; } field;
typedef struct { field x2, z2, x3, z3; } ladder;

#if defined(X25519_PORTABLE)
INLINE vec add_low(vec sum, vec a, vec b)
{
    const uint64_t bits52 = ((uint64_t)1 << 52) - 1;
    for (int i = 0; i < X25519_LANES; i++)
        sum[i] += (uint64_t)((unsigned __int128)(a[i] & bits52) * (b[i] & bits52)) & bits52;
    return sum;
}

INLINE vec add_high(vec sum, vec a, vec b)
{
    const uint64_t bits52 = ((uint64_t)1 << 52) - 1;
    for (int i = 0; i < X25519_LANES; i++)
        sum[i] += (uint64_t)((unsigned __int128)(a[i] & bits52) * (b[i] & bits52) >> 52);
    return sum;
}
#else
TARGET INLINE vec add_low(vec sum, vec a, vec b)
{
    return (vec)_mm256_madd52lo_epu64((__m256i)sum, (__m256i)a, (__m256i)b);
}

TARGET INLINE vec add_high(vec sum, vec a, vec b)
{
    return (vec)_mm256_madd52hi_epu64((__m256i)sum, (__m256i)a, (__m256i)b);
}
#endif

TARGET INLINE vec all(uint64_t value) { return (vec){value, value, value, value}; }

/* One step of the carries for all limbs at once; the uppermost comes back as 2^255 = 19. */
TARGET INLINE field carry(const vec *sum)
{
    field r;
    UNROLL
    for (int k = 1; k < LIMBS; k++)
        r.limb[k] = (sum[k] & LIMB) + (sum[k - 1] >> LIMB_BITS);
    r.limb[0] = add_low(sum[0] & LIMB, sum[LIMBS - 1] >> LIMB_BITS, all(19));
    return r;
}

TARGET INLINE field add(const field *a, const field *b)
{
    vec sum[LIMBS];
    UNROLL
    for (int k = 0; k < LIMBS; k++)
        sum[k] = a->limb[k] + b->limb[k];
    return carry(sum);
}

/* Twice the prime is added, whose limbs are greater than those of any element. */
TARGET INLINE field subtract(const field *a, const field *b)
{
    vec sum[LIMBS];
    UNROLL
    for (int k = 0; k < LIMBS; k++)
        sum[k] = a->limb[k] + (2 * LIMB - (k ? 0 : 36)) - b->limb[k];
    return carry(sum);
}

/* Folds a product: the lower halves, and the upper ones, each for the limb above its own. Sums of
 * five halves of 52 bits, three times that, twenty times that: below 2^61. */
TARGET INLINE field fold(const vec *low, const vec *high)
{
    vec sum[2 * LIMBS];
    UNROLL
    for (int k = 0; k < 2 * LIMBS; k++)
        sum[k] = low[k] + high[k] + high[k];
    UNROLL
    for (int k = 0; k < LIMBS; k++) {
        vec over = sum[k + LIMBS];
        sum[k] += (over << 4) + (over << 1) + over;
    }
    return carry(sum);
}

TARGET INLINE field multiply(const field *a, const field *b)
{
    vec low[2 * LIMBS] = {0}, high[2 * LIMBS] = {0};
    UNROLL
    for (int i = 0; i < LIMBS; i++)
        UNROLL
        for (int j = 0; j < LIMBS; j++) {
            low[i + j] = add_low(low[i + j], a->limb[i], b->limb[j]);
            high[i + j + 1] = add_high(high[i + j + 1], a->limb[i], b->limb[j]);
        }
    return fold(low, high);
}

/* What is not on the diagonal counts twice. */
TARGET INLINE field square(const field *a)
{
    vec low[2 * LIMBS] = {0}, high[2 * LIMBS] = {0};
    UNROLL
    for (int i = 0; i < LIMBS; i++)
        UNROLL
        for (int j = i + 1; j < LIMBS; j++) {
            low[i + j] = add_low(low[i + j], a->limb[i], a->limb[j]);
            high[i + j + 1] = add_high(high[i + j + 1], a->limb[i], a->limb[j]);
        }
    UNROLL
    for (int k = 0; k < 2 * LIMBS; k++) {
        low[k] += low[k];
        high[k] += high[k];
    }
    UNROLL
    for (int i = 0; i < LIMBS; i++) {
        low[2 * i] = add_low(low[2 * i], a->limb[i], a->limb[i]);
        high[2 * i + 1] = add_high(high[2 * i + 1], a->limb[i], a->limb[i]);
    }
    return fold(low, high);
}

/* a + A24 * e */
TARGET INLINE field add_a24(const field *a, const field *e)
{
    vec sum[LIMBS];
    UNROLL
    for (int k = 0; k < LIMBS; k++)
        sum[k] = add_low(a->limb[k], e->limb[k], all(A24));
    UNROLL
    for (int k = 0; k < LIMBS; k++) {
        vec over = add_high(all(0), e->limb[k], all(A24));
        sum[(k + 1) % LIMBS] += k < LIMBS - 1 ? over + over : 38 * over;
    }
    return carry(sum);
}

/* Where `mask` is all ones. */
TARGET INLINE void swap(field *a, field *b, vec mask)
{
    UNROLL
    for (int k = 0; k < LIMBS; k++) {
        vec both = (a->limb[k] ^ b->limb[k]) & mask;
        a->limb[k] ^= both;
        b->limb[k] ^= both;
    }
}

/* A bit of the scalar: both points are added, and the one that is first is doubled. */
TARGET INLINE void step(ladder *l, const field *x1)
{
    field a = add(&l->x2, &l->z2), b = subtract(&l->x2, &l->z2);
    field c = add(&l->x3, &l->z3), d = subtract(&l->x3, &l->z3);
    field da = multiply(&d, &a), cb = multiply(&c, &b);
    field aa = square(&a), bb = square(&b);
    field e = subtract(&aa, &bb), sum = add(&da, &cb), difference = subtract(&da, &cb);
    field scaled = add_a24(&aa, &e);
    l->x3 = square(&sum);
    difference = square(&difference);
    l->x2 = multiply(&aa, &bb);
    l->z3 = multiply(x1, &difference);
    l->z2 = multiply(&e, &scaled);
}

TARGET NOINLINE void climb(ladder *l, const vec *scalar, const field *x1)
{
    vec before = all(0);
    for (int t = X25519_BITS - 1; t >= 0; t--) {
        vec bit = -(scalar[t >> 6] >> (t & 63) & 1);
        swap(&l->x2, &l->x3, bit ^ before);
        swap(&l->z2, &l->z3, bit ^ before);
        before = bit;
        step(l, x1);
    }
    swap(&l->x2, &l->x3, before);
    swap(&l->z2, &l->z3, before);
}

TARGET NOINLINE field square_times(field a, int times)
{
    while (times-- > 0)
        a = square(&a);
    return a;
}

/* To the power of p - 2 = 2^255 - 21, Fermat's inverse; zero stays zero. Names tell the exponents:
 * `ones_n` is 2^n - 1. */
TARGET NOINLINE field invert(const field *a)
{
    field two = square(a), eight = square_times(two, 2);
    field nine = multiply(&eight, a), eleven = multiply(&nine, &two);
    field power = square(&eleven), ones_5 = multiply(&power, &nine);
    power = square_times(ones_5, 5);
    field ones_10 = multiply(&power, &ones_5);
    power = square_times(ones_10, 10);
    field ones_20 = multiply(&power, &ones_10);
    power = square_times(ones_20, 20);
    field ones_40 = multiply(&power, &ones_20);
    power = square_times(ones_40, 10);
    field ones_50 = multiply(&power, &ones_10);
    power = square_times(ones_50, 50);
    field ones_100 = multiply(&power, &ones_50);
    power = square_times(ones_100, 100);
    field ones_200 = multiply(&power, &ones_100);
    power = square_times(ones_200, 50);
    field ones_250 = multiply(&power, &ones_50);
    power = square_times(ones_250, 5);
    return multiply(&power, &eleven);
}

/* The numbers of one lane. x86-64 is little-endian, as the encoding is. */

INLINE void load_scalar(vec *scalar, int lane, const uint8_t *bytes)
{
    uint64_t words[4];
    memcpy(words, bytes, sizeof words);
    words[0] &= ~(uint64_t)7;
    words[3] = (words[3] & ~((uint64_t)1 << 63)) | (uint64_t)1 << 62;
    for (int i = 0; i < 4; i++)
        scalar[i][lane] = words[i];
}

/* The uppermost bit is no part of it. What is not below the prime is as good. */
INLINE void load_point(field *x, int lane, const uint8_t *bytes)
{
    uint64_t w[4];
    memcpy(w, bytes, sizeof w);
    x->limb[0][lane] = w[0] & LIMB;
    x->limb[1][lane] = (w[0] >> 51 | w[1] << 13) & LIMB;
    x->limb[2][lane] = (w[1] >> 38 | w[2] << 26) & LIMB;
    x->limb[3][lane] = (w[2] >> 25 | w[3] << 39) & LIMB;
    x->limb[4][lane] = w[3] >> 12 & LIMB;
}

/* Brings every limb but the uppermost below 2^51. */
INLINE void carry_up(uint64_t *h)
{
    for (int k = 0; k < LIMBS - 1; k++) {
        h[k + 1] += h[k] >> LIMB_BITS;
        h[k] &= LIMB;
    }
}

/* The one below the prime. */
INLINE void store(uint8_t *bytes, const field *x, int lane)
{
    uint64_t h[LIMBS], above;
    for (int k = 0; k < LIMBS; k++)
        h[k] = x->limb[k][lane];
    carry_up(h);
    h[0] += 19 * (h[4] >> LIMB_BITS);
    h[4] &= LIMB;
    carry_up(h);
    /* Now below 2^255; it is the prime or more if 19 more carry out of the top. */
    above = h[0] + 19;
    for (int k = 1; k < LIMBS; k++)
        above = h[k] + (above >> LIMB_BITS);
    h[0] += 19 * (above >> LIMB_BITS);
    carry_up(h);
    h[4] &= LIMB;
    uint64_t w[4] = {h[0] | h[1] << 51, h[1] >> 13 | h[2] << 38, h[2] >> 26 | h[3] << 25,
                     h[3] >> 39 | h[4] << 12};
    memcpy(bytes, w, sizeof w);
}

/* What the functions above left on the stack below their caller. */
NOINLINE void wipe_spills(void)
{
    uint8_t stack[SPILLS];
    memset(stack, 0, sizeof stack);
    __asm__ volatile("" : : "r"(stack) : "memory");
}

TARGET NOINLINE void multiply_lanes(uint8_t (*products)[X25519_SIZE], const uint8_t *const *scalars,
                                    const uint8_t *const *points, int count)
{
    vec scalar[4] = {0};
    field x1 = {{{0}}}, inverse;
    for (int lane = 0; lane < count; lane++) {
        load_scalar(scalar, lane, scalars[lane]);
        load_point(&x1, lane, points[lane]);
    }
    ladder l = {.x2 = {{all(1)}}, .x3 = x1, .z3 = {{all(1)}}};
    climb(&l, scalar, &x1);
    inverse = invert(&l.z2);
    x1 = multiply(&l.x2, &inverse);
    for (int lane = 0; lane < count; lane++)
        store(products[lane], &x1, lane);
}

void x25519_lanes(uint8_t (*products)[X25519_SIZE], const uint8_t *const *scalars,
                  const uint8_t *const *points, int count)
{
    multiply_lanes(products, scalars, points, count);
    wipe_spills();
}

int x25519_can_run(void)
{
#if defined(X25519_PORTABLE)
    return 1;
#else
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512ifma");
#endif
}

#else

int x25519_can_run(void) { return 0; }

void x25519_lanes(uint8_t (*products)[X25519_SIZE], const uint8_t *const *scalars,
                  const uint8_t *const *points, int count)
{
    (void)products, (void)scalars, (void)points, (void)count;
}

#endif
