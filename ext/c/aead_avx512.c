/* The backends for AVX-512 with IFMA. Poly1305 runs in 256-bit registers: sustained multiplications
 * in 512-bit ones lower the clock of some server CPUs by a seventh, for all else in the process,
 * too. avx512z runs it in 512-bit registers. */
#if defined(__x86_64__)
#define TARGET __attribute__((target("avx2,bmi2,avx512f,avx512vl,avx512bw,avx512ifma")))

#include "poly1305_scalar.h"

/* Scheduling before registers are allotted gains three percent with vectors, and loses more in
 * general registers. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("schedule-insns", "sched-pressure")
#endif
#include "chacha20_avx512.h"
#define WIDTH 256
#include "poly1305_ifma.h"
#define WIDTH 512
#include "poly1305_ifma.h"

enum { POLY_LANES = 8 };
#include "aead_driver.h"

TARGET static void seal(aead_item *items, size_t n) { run(items, n, 0, poly1305_256); }
TARGET static void open(aead_item *items, size_t n) { run(items, n, 1, poly1305_256); }
TARGET static void sealz(aead_item *items, size_t n) { run(items, n, 0, poly1305_512); }
TARGET static void openz(aead_item *items, size_t n) { run(items, n, 1, poly1305_512); }

const aead_backend aead_avx512 = {"avx512", seal, open};
const aead_backend aead_avx512z = {"avx512z", sealz, openz};
#endif
