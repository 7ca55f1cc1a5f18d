#include "checksum.h"

#include <features.h>
#include <string.h>

/* 32-bit words are added into 64-bit lanes, so carries need no care for 4 GiB of them. */
typedef uint64_t wide __attribute__((vector_size(32)));

#if defined(__x86_64__) && defined(__GLIBC__)
#define FOR_EACH_CPU __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EACH_CPU
#endif

#define INLINE static inline __attribute__((always_inline))

/* Takes `size` bytes, a constant, into `word`, and copies them if there is a place. */
#define TAKE(word, size)                                                                           \
    do {                                                                                           \
        memcpy(&(word), from, (size));                                                             \
        if (to) {                                                                                  \
            memcpy(to, &(word), (size));                                                           \
            to += (size);                                                                          \
        }                                                                                          \
        from += (size);                                                                            \
    } while (0)

/* Less than 64 bytes. */
INLINE uint64_t add_end(uint64_t sum, uint8_t *to, const uint8_t *from, size_t size)
{
    uint64_t eight;
    uint32_t four = 0;
    uint16_t two = 0, one = 0;

    for (; size >= 8; size -= 8) {
        TAKE(eight, 8);
        sum += (eight & 0xFFFFFFFF) + (eight >> 32);
    }
    if (size & 4)
        TAKE(four, 4);
    if (size & 2)
        TAKE(two, 2);
    if (size & 1)
        TAKE(one, 1);
    return sum + four + two + one;
}

INLINE uint64_t pass(uint64_t sum, uint8_t *to, const uint8_t *from, size_t size)
{
    const wide mask = {0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF};
    wide low = {0}, high = {0}, more_low = {0}, more_high = {0}, a, b;

    if (size < 64)
        return add_end(sum, to, from, size);
    for (; size >= 64; size -= 64) {
        TAKE(a, 32);
        TAKE(b, 32);
        low += a & mask;
        high += a >> 32;
        more_low += b & mask;
        more_high += b >> 32;
    }
    low += high + more_low + more_high;
    sum += low[0] + low[1] + low[2] + low[3];
    return add_end(sum, to, from, size);
}

FOR_EACH_CPU uint64_t checksum_add(uint64_t sum, const uint8_t *data, size_t size)
{
    return pass(sum, NULL, data, size);
}

FOR_EACH_CPU uint64_t checksum_copy(uint64_t sum, uint8_t *restrict to,
                                    const uint8_t *restrict from, size_t size)
{
    return pass(sum, to, from, size);
}
