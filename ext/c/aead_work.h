/* What the kernels of ChaCha20 and Poly1305 and the driver above them share.
 *
 * The unit of ChaCha20's work is one 64-byte block of one packet: one lane of a vector. Units are
 * all alike, "src XOR keystream goes to dst", so that lanes fill up across the borders of packets
 * and no kernel has special cases:
 *   - a packet's Poly1305 key is block 0 with zeros as src (RFC 8439 2.6);
 *   - a last block that is not full goes through a slot of 64 bytes.
 * The queue is a structure of arrays, because a kernel loads its columns as vectors.
 *
 * TARGET is the function attribute that names the instruction set; each backend's file defines
 * it. */
#ifndef FIREZONE_AEAD_WORK_H
#define FIREZONE_AEAD_WORK_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef AEAD_CONSTANT_TIME_CHECK
#include <valgrind/memcheck.h>
/* The verdict on a packet is for everybody to see; whatever else comes of secrets is not. */
#define PUBLIC(variable) VALGRIND_MAKE_MEM_DEFINED(&(variable), sizeof(variable))
#else
#define PUBLIC(variable) ((void)0)
#endif

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;
typedef unsigned __int128 u128;

#define INLINE static inline __attribute__((always_inline))
#define NOINLINE static __attribute__((noinline))
#define ALIGNED __attribute__((aligned(64)))
/* An array of vectors stays in registers only where the loops over it are unrolled in full. */
#define UNROLL _Pragma("GCC unroll 16")

enum {
    RUN_AT = 128,                      /* units that wait before the kernels run */
    QUEUE = RUN_AT + 16 + 16,          /* one run of units more, and the slack of vector stores */
    LANES_MOST = 8,                    /* of Poly1305 */
};

struct unit_queue {
    ALIGNED u32 block[QUEUE];
    ALIGNED u32 counter_low[QUEUE];
    ALIGNED u32 counter_high[QUEUE];
    ALIGNED const u8 *key[QUEUE];
    ALIGNED const u8 *src[QUEUE];
    ALIGNED u8 *dst[QUEUE];
    unsigned count;
};

/* Up to LANES_MOST packets for Poly1305; all entries are valid, idle ones have length 0. */
struct poly_job {
    const u8 *text[LANES_MOST];
    const u8 *key[LANES_MOST];         /* one-time keys, 64-byte aligned, 64 bytes readable */
    u32 length[LANES_MOST];
    ALIGNED u64 tag_low[LANES_MOST];
    ALIGNED u64 tag_high[LANES_MOST];
};

static const ALIGNED u8 ZEROS[64];

INLINE u64 load64(const u8 *p) { u64 v; memcpy(&v, p, 8); return v; }
INLINE void store64(u8 *p, u64 v) { memcpy(p, &v, 8); }
INLINE unsigned poly_blocks(u32 length) { return (length + 15) / 16 + 1; }  /* and the lengths' */

/* A memset to zero that the compiler may not drop. */
INLINE void wipe_memory(void *memory, size_t size)
{
    memset(memory, 0, size);
    __asm__ volatile("" : : "r"(memory) : "memory");
}

#endif
