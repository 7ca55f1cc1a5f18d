/* The backend for AVX2. */
#if defined(__x86_64__)
#define TARGET __attribute__((target("avx2,bmi2")))

#include "poly1305_scalar.h"

/* Scheduling before registers are allotted gains three percent with vectors, and loses more in
 * general registers. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("schedule-insns", "sched-pressure")
#endif
#include "chacha20_avx2.h"
#include "poly1305_avx2.h"
#include "aead_driver.h"

TARGET static void seal(aead_item *items, size_t n) { run(items, n, 0, poly1305_avx2); }
TARGET static void open(aead_item *items, size_t n) { run(items, n, 1, poly1305_avx2); }

const aead_backend aead_avx2 = {"avx2", seal, open};
#endif
