# Loads and stores between threads; the orders are those of C11. Inline only: no module to import.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef extern from "atomics.h" nogil:
    uint8_t load_relaxed_u8(const uint8_t*) noexcept
    uint8_t load_acquire_u8(const uint8_t*) noexcept
    void store_relaxed_u8(uint8_t*, uint8_t) noexcept
    void store_release_u8(uint8_t*, uint8_t) noexcept
    uint32_t load_relaxed_u32(const uint32_t*) noexcept
    uint32_t load_acquire_u32(const uint32_t*) noexcept
    void store_relaxed_u32(uint32_t*, uint32_t) noexcept
    void store_release_u32(uint32_t*, uint32_t) noexcept
    uint64_t load_relaxed_u64(const uint64_t*) noexcept
    uint64_t load_acquire_u64(const uint64_t*) noexcept
    void store_relaxed_u64(uint64_t*, uint64_t) noexcept
    void store_release_u64(uint64_t*, uint64_t) noexcept
    # What it was before.
    uint64_t add_relaxed_u64(uint64_t*, uint64_t) noexcept
    int64_t load_relaxed_i64(const int64_t*) noexcept
    int64_t load_acquire_i64(const int64_t*) noexcept
    void store_relaxed_i64(int64_t*, int64_t) noexcept
    void store_release_i64(int64_t*, int64_t) noexcept
    # `place` is the address of a pointer.
    void* load_relaxed_pointer(const void* place) noexcept
    void* load_acquire_pointer(const void* place) noexcept
    void store_release_pointer(void* place, void* value) noexcept
    # Puts `wanted` there if `expected` still stands; says whether it did.
    bint swap_pointer(void* place, void* expected, void* wanted) noexcept
    void fence_full() noexcept
    # A memset to zero that the compiler may not drop.
    void wipe(void* memory, size_t size) noexcept
