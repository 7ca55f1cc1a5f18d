/* Checks the C backends against a plain implementation of RFC 8439. Run by test_aead_native.py
 * under sanitizers, under Valgrind, and as it is.
 *
 *   check BACKEND random ROUNDS   batches of mixed sizes and keys between canaries and guard pages
 *   check BACKEND secrets         lengths up to 700, and up to 950 in batches, with keys and texts
 *                                 marked as undefined: under Valgrind, a branch or address that
 *                                 depends on them is an error
 *   check BACKEND stack           no key, one-time key or plaintext stays on the stack
 *   check BACKEND trace           step by step, the path through the code is the same for different
 *                                 keys and texts: for what Valgrind cannot run, AVX-512
 *
 * Exit code 0: fine; 1: wrong; 3: it cannot be checked here. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "aead.h"
#include "trace.h"

#ifdef AEAD_CONSTANT_TIME_CHECK
#include <valgrind/memcheck.h>
#define SECRET(p, n) VALGRIND_MAKE_MEM_UNDEFINED(p, n)
#define PUBLISH(p, n) VALGRIND_MAKE_MEM_DEFINED(p, n)
#else
#define SECRET(p, n) ((void)0)
#define PUBLISH(p, n) ((void)0)
#endif

enum { MOST = 130, LONGEST = 2000, ROOM = 4096, PAGE = 4096 };

#define CHECK(what, ...) do { \
    if (!(what)) { printf("%s: ", #what); printf(__VA_ARGS__); printf("\n"); exit(1); } } while (0)

/* RFC 8439, as it stands there. */

static uint32_t rotate(uint32_t x, int n) { return x << n | x >> (32 - n); }

static void quarter_round(uint32_t *s, int a, int b, int c, int d)
{
    s[a] += s[b]; s[d] = rotate(s[d] ^ s[a], 16);
    s[c] += s[d]; s[b] = rotate(s[b] ^ s[c], 12);
    s[a] += s[b]; s[d] = rotate(s[d] ^ s[a], 8);
    s[c] += s[d]; s[b] = rotate(s[b] ^ s[c], 7);
}

static void plain_block(uint8_t out[64], const uint8_t *key, uint32_t block, uint64_t counter)
{
    uint32_t s[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574}, x[16];
    memcpy(s + 4, key, 32);
    s[12] = block; s[13] = 0; s[14] = (uint32_t)counter; s[15] = (uint32_t)(counter >> 32);
    memcpy(x, s, 64);
    for (int i = 0; i < 10; i++) {
        for (int c = 0; c < 4; c++) quarter_round(x, c, 4 + c, 8 + c, 12 + c);
        for (int c = 0; c < 4; c++) quarter_round(x, c, 4 + (c + 1) % 4, 8 + (c + 2) % 4, 12 + (c + 3) % 4);
    }
    for (int i = 0; i < 16; i++) x[i] += s[i];
    memcpy(out, x, 64);
}

/* Byte by byte, in limbs of 8 bits. */
static void plain_poly1305(uint8_t tag[16], const uint8_t key[32], const uint8_t *text, uint32_t length)
{
    uint32_t h[17] = {0}, r[17], carry;
    uint32_t blocks = (length + 15) / 16;
    for (int i = 0; i < 16; i++) r[i] = key[i];
    r[16] = 0;
    r[3] &= 15; r[7] &= 15; r[11] &= 15; r[15] &= 15; r[4] &= 252; r[8] &= 252; r[12] &= 252;
    for (uint32_t b = 0; b <= blocks; b++) {
        uint8_t piece[17] = {0};
        uint32_t left = length - 16 * b, product[17];
        if (b < blocks)
            memcpy(piece, text + 16 * b, left < 16 ? left : 16);
        else
            memcpy(piece + 8, &length, 4);
        piece[16] = 1;
        carry = 0;
        for (int i = 0; i < 17; i++) { carry += h[i] + piece[i]; h[i] = carry & 255; carry >>= 8; }
        for (int i = 0; i < 17; i++) {
            product[i] = 0;
            for (int j = 0; j < 17; j++)
                product[i] += h[j] * (j <= i ? r[i - j] : 320 * r[i + 17 - j]);
        }
        for (int round = 0; round < 2; round++) {
            carry = 0;
            for (int i = 0; i < 16; i++) { carry += product[i]; product[i] = carry & 255; carry >>= 8; }
            carry += product[16];
            product[16] = carry & 3;
            product[0] += 5 * (carry >> 2);
        }
        memcpy(h, product, sizeof h);
    }
    uint32_t less[17], take;
    for (int i = 0, c = 5; i < 17; i++) { c += (int)h[i]; less[i] = (uint32_t)c & 255; c >>= 8; }
    take = 0 - (less[16] >> 2 & 1);
    carry = 0;
    for (int i = 0; i < 16; i++) {
        carry += ((less[i] & take) | (h[i] & ~take)) + key[16 + i];
        tag[i] = (uint8_t)carry;
        carry >>= 8;
    }
}

static void plain_seal(uint8_t *out, const uint8_t *text, uint32_t length, const uint8_t *key, uint64_t counter)
{
    uint8_t stream[64];
    for (uint32_t i = 0; i < length; i++) {
        if (i % 64 == 0)
            plain_block(stream, key, 1 + i / 64, counter);
        out[i] = text[i] ^ stream[i % 64];
    }
    plain_block(stream, key, 0, counter);
    plain_poly1305(out + length, stream, out, length);
}

/* Randomness of no quality, and buffers between unreadable pages. */

static uint64_t state = 0x9e3779b97f4a7c15ULL;

static uint32_t rnd(void)
{
    state ^= state << 13; state ^= state >> 7; state ^= state << 17;
    return (uint32_t)(state >> 16);
}

static void fill(uint8_t *p, size_t n)
{
    uint32_t kind = rnd() % 8;         /* often all ones or zeros: the carries of Poly1305 */
    for (size_t i = 0; i < n; i++)
        p[i] = kind == 0 ? 0 : kind == 1 ? 255 : (uint8_t)rnd();
}

static uint8_t *guarded(void)
{
    uint8_t *m = mmap(NULL, ROOM + 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(m != MAP_FAILED, "no memory");
    CHECK(!mprotect(m, PAGE, PROT_NONE) && !mprotect(m + PAGE + ROOM, PAGE, PROT_NONE), "mprotect");
    return m + PAGE;
}

/* At the end of the room, at its start, or somewhere. */
static uint8_t *place(uint8_t *room, size_t n)
{
    uint32_t kind = rnd() % 4;
    return kind < 2 ? room + ROOM - n : kind == 2 ? room : room + rnd() % (ROOM - n + 1);
}

static uint32_t some_length(uint32_t style, uint32_t same)
{
    if (style == 0)
        return same;
    if (style == 1)
        return rnd() % 8 ? rnd() % 130 : rnd() % (LONGEST + 1);
    return rnd() % (LONGEST + 1);
}

static uint8_t *in[MOST], *out[MOST];
static uint8_t text[MOST][LONGEST], sealed[MOST][LONGEST + 16], keys[MOST][32];

/* Damages a packet in one of three ways. */
static void damage(aead_item *item, uint8_t *packet)
{
    switch (rnd() % 3) {
    case 0: packet[item->length + rnd() % 16] ^= (uint8_t)(1u << rnd() % 8); break;
    case 1: packet[rnd() % (item->length + 16)] ^= (uint8_t)(1u << rnd() % 8); break;
    default: item->counter ^= 1ULL << rnd() % 64;
    }
}

static void check_untouched(const uint8_t *room, const uint8_t *from, size_t n, size_t i)
{
    for (const uint8_t *p = room; p < room + ROOM; p++)
        if (p < from || p >= from + n)
            CHECK(*p == 0x3a, "packet %zu: wrote %ld bytes from its place", i, (long)(p - from));
}

static void random_batch(const aead_backend *backend)
{
    aead_item items[MOST];
    int damaged[MOST];
    size_t n = rnd() % (rnd() % 2 ? MOST + 1 : 20);
    uint32_t style = rnd() % 3, same = rnd() % (LONGEST + 1), key_style = rnd() % 3;
    uint64_t counters[] = {0, 0xfffffff0, ~0ULL - 200, (uint64_t)rnd() << 32 | rnd()};
    uint64_t counter = counters[rnd() % 4];

    for (size_t i = 0; i < n; i++) {
        uint32_t length = some_length(style, same);
        int in_place = rnd() % 2;
        fill(keys[i], 32);
        const uint8_t *key = keys[key_style == 0 ? 0 : key_style == 1 ? i : rnd() % (i + 1)];
        memset(in[i], 0x3a, ROOM); memset(out[i], 0x3a, ROOM);
        uint8_t *src = place(in[i], length + 16);
        fill(text[i], length);
        memcpy(src, text[i], length);
        plain_seal(sealed[i], text[i], length, key, counter + i);
        items[i] = (aead_item){key, src, in_place ? src : place(out[i], length + 16), counter + i, length, 9};
    }
    backend->seal(items, n);
    for (size_t i = 0; i < n; i++) {
        uint32_t length = items[i].length;
        CHECK(!memcmp(items[i].dst, sealed[i], length + 16), "seal: %zu of %zu, %u bytes", i, n, length);
        check_untouched(items[i].dst == items[i].src ? in[i] : out[i], items[i].dst, length + 16, i);
        if (items[i].dst != items[i].src)
            CHECK(!memcmp(items[i].src, text[i], length), "seal changed its source");

        memset(in[i], 0x3a, ROOM); memset(out[i], 0x3a, ROOM);
        uint8_t *src = place(in[i], length + 16);
        memcpy(src, sealed[i], length + 16);
        items[i].src = src;
        items[i].dst = rnd() % 2 ? src : place(out[i], length);
        damaged[i] = rnd() % 4 == 0;
        if (damaged[i]) {
            damage(&items[i], src);
            memcpy(sealed[i], src, length + 16);
        }
    }
    backend->open(items, n);
    for (size_t i = 0; i < n; i++) {
        uint32_t length = items[i].length;
        int in_place = items[i].dst == items[i].src;
        CHECK(items[i].ok == (uint32_t)!damaged[i], "verdict: %zu of %zu, %u bytes", i, n, length);
        if (!damaged[i])
            CHECK(!memcmp(items[i].dst, text[i], length), "open: %zu of %zu, %u bytes", i, n, length);
        else if (in_place)
            CHECK(!memcmp(items[i].dst, sealed[i], length + 16), "a damaged packet was changed");
        else
            check_untouched(out[i], out[i], 0, i);
        check_untouched(in_place ? in[i] : out[i], items[i].dst, length + (in_place ? 16 : 0), i);
        CHECK(!memcmp(items[i].src + length, sealed[i] + length, 16), "open changed the tag");
    }
}

static void check_secrets(const aead_backend *backend)
{
    aead_item items[MOST];
    for (uint32_t from = 0; from < 700; from += from < 200 ? 3 : 37) {
        size_t n = 1 + from % 20;
        for (size_t i = 0; i < n; i++) {
            uint32_t length = from + 13 * (uint32_t)(i * (from % 2));
            fill(keys[i], 32); fill(text[i], length);
            plain_seal(sealed[i], text[i], length, keys[i / 2], i);
            memcpy(in[i], text[i], length);
            items[i] = (aead_item){keys[i / 2], in[i], in[i], i, length, 0};
            SECRET(in[i], length);
        }
        SECRET(keys, sizeof keys);
        backend->seal(items, n);
        for (size_t i = 0; i < n; i++) {
            uint32_t length = items[i].length;
            PUBLISH(in[i], length + 16);
            CHECK(!memcmp(in[i], sealed[i], length + 16), "seal: %zu, %u bytes", i, length);
            in[i][length] ^= i % 3 == 2;
            items[i].dst = out[i];
            SECRET(in[i], length + 16);
        }
        backend->open(items, n);
        for (size_t i = 0; i < n; i++) {
            CHECK(items[i].ok == (i % 3 != 2), "verdict: %zu, %u bytes", i, items[i].length);
            PUBLISH(out[i], items[i].length);
            if (items[i].ok)
                CHECK(!memcmp(out[i], text[i], items[i].length), "open: %zu", i);
        }
        PUBLISH(keys, sizeof keys);
    }
}

/* A thread of its own, whose stack can be looked at when it has ended. */

static void *work(void *argument)
{
    const aead_backend *backend = argument;
    aead_item items[17];
    for (size_t n = 0; n < 17; n++)
        items[n] = (aead_item){keys[0], text[n], out[n], n, 1 + 83 * (uint32_t)n, 0};
    backend->seal(items, 17);
    for (size_t n = 0; n < 17; n++)
        items[n] = (aead_item){keys[0], out[n], in[n], n, 1 + 83 * (uint32_t)n, 0};
    backend->open(items, 17);
    return NULL;
}

static int found(const uint8_t *where, size_t size, const uint8_t *what, size_t n)
{
    return memmem(where, size, what, n) != NULL;
}

static void check_stack(const aead_backend *backend)
{
    enum { STACK = 1 << 20 };
    uint8_t *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pthread_attr_t attributes;
    pthread_t thread;
    CHECK(stack != MAP_FAILED, "no memory");
    for (int i = 0; i < 32; i++) keys[0][i] = (uint8_t)(171 * i + 57);
    for (int n = 0; n < 17; n++)
        for (int i = 0; i < LONGEST; i++) text[n][i] = (uint8_t)(rnd() | 1);
    pthread_attr_init(&attributes);
    CHECK(!pthread_attr_setstack(&attributes, stack, STACK), "no stack");
    CHECK(!pthread_create(&thread, &attributes, work, (void *)backend), "no thread");
    pthread_join(thread, NULL);
    for (int at = 0; at + 8 <= 32; at += 4)
        CHECK(!found(stack, STACK, keys[0] + at, 8), "the key stays on the stack, from %d on", at);
    for (int n = 0; n < 17; n++) {
        uint8_t one_time[64];
        plain_block(one_time, keys[0], 0, (uint64_t)n);
        for (int at = 0; at + 8 <= 32; at += 8)
            CHECK(!found(stack, STACK, one_time + at, 8), "one-time key %d stays on the stack", n);
        for (int at = 0; at + 8 <= 83 * n; at += 8)
            CHECK(!found(stack, STACK, text[n] + at, 8), "plaintext stays on the stack: %d, %d", n, at);
    }
}

typedef struct { const aead_backend *backend; aead_item *seal, *open; size_t n; } both;

static void seal_and_open(void *argument)
{
    both *b = argument;
    b->backend->seal(b->seal, b->n);
    b->backend->open(b->open, b->n);
}

static void check_trace(const aead_backend *backend)
{
    static const uint32_t lengths[][9] = {
        {40}, {600}, {200, 200, 200, 200, 200, 200, 200, 200}, {0, 1, 64, 100, 333, 17, 200, 450, 65},
    };
    static const size_t counts[] = {1, 1, 8, 9};
    for (size_t at = 0; at < sizeof counts / sizeof *counts; at++) {
        uint64_t first = 0;
        for (int variant = 0; variant < 2; variant++) {
            aead_item seal[9], open[9];
            for (size_t i = 0; i < counts[at]; i++) {
                uint32_t length = lengths[at][i];
                for (uint32_t b = 0; b < 32; b++) keys[i][b] = variant ? (uint8_t)rnd() : 255;
                for (uint32_t b = 0; b < length; b++) in[i][b] = variant ? (uint8_t)rnd() : 255;
                plain_seal(sealed[i], in[i], length, keys[i], i);
                sealed[i][length] ^= i % 3 == 2;
                seal[i] = (aead_item){keys[i], in[i], out[i], i, length, 0};
                open[i] = (aead_item){keys[i], sealed[i], text[i], i, length, 0};
            }
            both b = {backend, seal, open, counts[at]};
            uint64_t path = trace(seal_and_open, &b, 1000);
            if (variant == 0)
                first = path;
            CHECK(path == first, "the path depends on secrets: lengths %zu, variant %d", at, variant);
        }
    }
}

int main(int argc, char **argv)
{
    const aead_backend *backend = NULL;
    CHECK(argc > 2, "BACKEND random|secrets|stack|trace [ROUNDS]");
    for (size_t i = 0; (backend = aead_backend_at(i)) != NULL; i++)
        if (!strcmp(backend->name, argv[1]))
            break;
    if (backend == NULL)
        return 3;
    for (int i = 0; i < MOST; i++) { in[i] = guarded(); out[i] = guarded(); }
    if (!strcmp(argv[2], "secrets"))
        check_secrets(backend);
    else if (!strcmp(argv[2], "stack"))
        check_stack(backend);
    else if (!strcmp(argv[2], "trace"))
        check_trace(backend);
    else
        for (long rounds = argc > 3 ? atol(argv[3]) : 100; rounds > 0; rounds--) random_batch(backend);
    return 0;
}
