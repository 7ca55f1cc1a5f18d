/* Loads and stores between threads, most of them one that writes and several that read.
 * Names: <verb>_<order>_<type>. */
#ifndef FIREZONE_ATOMICS_H
#define FIREZONE_ATOMICS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define FZ_ATOMICS(suffix, type)                                                                  \
    static inline type load_relaxed_##suffix(const type *p) {                                     \
        return __atomic_load_n(p, __ATOMIC_RELAXED);                                              \
    }                                                                                             \
    static inline type load_acquire_##suffix(const type *p) {                                     \
        return __atomic_load_n(p, __ATOMIC_ACQUIRE);                                              \
    }                                                                                             \
    static inline void store_relaxed_##suffix(type *p, type value) {                              \
        __atomic_store_n(p, value, __ATOMIC_RELAXED);                                             \
    }                                                                                             \
    static inline void store_release_##suffix(type *p, type value) {                              \
        __atomic_store_n(p, value, __ATOMIC_RELEASE);                                             \
    }

FZ_ATOMICS(u8, uint8_t)
FZ_ATOMICS(u32, uint32_t)
FZ_ATOMICS(u64, uint64_t)
FZ_ATOMICS(i64, int64_t)
#undef FZ_ATOMICS

/* Returns what it was before. For words that several threads write. */
static inline uint64_t add_relaxed_u64(uint64_t *p, uint64_t amount) {
    return __atomic_fetch_add(p, amount, __ATOMIC_RELAXED);
}

/* Pointers: `place` is the address of any object pointer. */
static inline void *load_acquire_pointer(const void *place) {
    void *value;
    __atomic_load((void **)place, &value, __ATOMIC_ACQUIRE);
    return value;
}

static inline void *load_relaxed_pointer(const void *place) {
    void *value;
    __atomic_load((void **)place, &value, __ATOMIC_RELAXED);
    return value;
}

static inline void store_release_pointer(void *place, void *value) {
    __atomic_store((void **)place, &value, __ATOMIC_RELEASE);
}

/* Puts `wanted` there if `expected` still stands. Returns 1 if it did. */
static inline int swap_pointer(void *place, void *expected, void *wanted) {
    return __atomic_compare_exchange((void **)place, &expected, &wanted, 0, __ATOMIC_ACQ_REL,
                                     __ATOMIC_ACQUIRE);
}

static inline void fence_full(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

/* A memset that the compiler may not drop, although nobody reads the memory again. */
static inline void wipe(void *memory, size_t size) {
    memset(memory, 0, size);
    __asm__ __volatile__("" : : "r"(memory) : "memory");
}

#endif
