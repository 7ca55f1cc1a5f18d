/* Which backends can run here: CPUID says what the CPU knows, XCR0 which registers the system saves
 * when it switches threads. Both count. */
#include "aead.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <string.h>

enum { AVX2 = 1, AVX512 = 2, BACKENDS = 3 };

typedef struct { const aead_backend *backend; unsigned needs; } choice;

/* avx512z is the fastest, but lowers the clock of some Intel CPUs for all else, too: last there. */
static const choice ON_AMD[BACKENDS] = {
    {&aead_avx512z, AVX2 | AVX512}, {&aead_avx512, AVX2 | AVX512}, {&aead_avx2, AVX2}};
static const choice ELSEWHERE[BACKENDS] = {
    {&aead_avx512, AVX2 | AVX512}, {&aead_avx2, AVX2}, {&aead_avx512z, AVX2 | AVX512}};

static int is_amd(void)
{
    unsigned highest, name[3];
    return __get_cpuid(0, &highest, &name[0], &name[2], &name[1]) &&
           memcmp(name, "AuthenticAMD", sizeof name) == 0;
}

static unsigned saved_registers(void)
{
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static unsigned features(void)
{
    const unsigned osxsave = 1u << 27, avx = 1u << 28;                            /* leaf 1, ECX */
    const unsigned avx2 = 1u << 5, bmi2 = 1u << 8;                                /* leaf 7, EBX */
    const unsigned avx512 = 1u << 16 | 1u << 21 | 1u << 30 | 1u << 31;      /* F, IFMA, BW, VL */
    const unsigned ymm = 0x6, zmm = 0xe6;                                         /* XCR0 */
    unsigned a, b, c, d, found = 0;

    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & (osxsave | avx)) != (osxsave | avx))
        return 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return 0;
    unsigned saved = saved_registers();
    if ((saved & ymm) == ymm && (b & (avx2 | bmi2)) == (avx2 | bmi2))
        found |= AVX2;
    if ((saved & zmm) == zmm && (b & avx512) == avx512)
        found |= AVX512;
    return found;
}

const aead_backend *aead_backend_at(size_t index)
{
    unsigned have = features();
    const choice *order = is_amd() ? ON_AMD : ELSEWHERE;
    for (size_t i = 0; i < BACKENDS; i++)
        if ((order[i].needs & ~have) == 0 && index-- == 0)
            return order[i].backend;
    return NULL;
}

#else

const aead_backend *aead_backend_at(size_t index)
{
    (void)index;
    return NULL;
}

#endif
