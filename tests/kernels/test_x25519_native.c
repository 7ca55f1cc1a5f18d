/* Checks x25519.c by itself; run by test_x25519_native.py under sanitizers, under Valgrind and as it is.
 *
 *   check vector    RFC 7748, section 5.2: a thousand times, in one to four lanes by turns
 *   check secrets   one product with scalars and points marked as undefined: under Valgrind, a branch
 *                   or address that depends on them is an error
 *   check stack     no scalar, product or step between them stays on the stack
 *   check trace     step by step, the path through the code is the same for different numbers
 *
 * Exit code 0: fine; 1: wrong; 3: it cannot be checked here. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "trace.h"
#include "x25519.h"

#ifdef CONSTANT_TIME_CHECK
#include <valgrind/memcheck.h>
#define SECRET(p, n) VALGRIND_MAKE_MEM_UNDEFINED(p, n)
#define PUBLISH(p, n) VALGRIND_MAKE_MEM_DEFINED(p, n)
#else
#define SECRET(p, n) ((void)0)
#define PUBLISH(p, n) ((void)0)
#endif

#define CHECK(what) do { if (!(what)) { printf("not so: %s\n", #what); exit(1); } } while (0)

enum { SIZE = X25519_SIZE, LANES = X25519_LANES, TIMES = 1000, STACK = 1 << 20, FEWEST_STEPS = 10000 };

static const uint8_t A_THOUSAND_TIMES[SIZE] = {
    0x68, 0x4c, 0xf5, 0x9b, 0xa8, 0x33, 0x09, 0x55, 0x28, 0x00, 0xef, 0x56, 0x6f, 0x2f, 0x4d, 0x3c,
    0x1c, 0x38, 0x87, 0xc4, 0x93, 0x60, 0xe3, 0x87, 0x5f, 0x2e, 0xb9, 0x4d, 0x99, 0x53, 0x2c, 0x51};

/* Of the heap and no larger than need be, for the sanitizer's sake. */
static void check_vector(void)
{
    uint8_t *scalar = calloc(1, SIZE), *point = calloc(1, SIZE);
    const uint8_t *scalars[LANES] = {scalar, scalar, scalar, scalar};
    const uint8_t *points[LANES] = {point, point, point, point};
    scalar[0] = point[0] = 9;
    for (int i = 0; i < TIMES; i++) {
        int lanes = 1 + i % LANES;
        uint8_t (*products)[SIZE] = malloc((size_t)lanes * SIZE);
        x25519_lanes(products, scalars, points, lanes);
        for (int n = 1; n < lanes; n++) CHECK(!memcmp(products[0], products[n], SIZE));
        memcpy(point, scalar, SIZE);
        memcpy(scalar, products[lanes - 1], SIZE);
        free(products);
    }
    CHECK(!memcmp(scalar, A_THOUSAND_TIMES, SIZE));
    free(point); free(scalar);
}

static uint8_t scalar[LANES][SIZE], point[LANES][SIZE], product[LANES][SIZE];

static void fill(unsigned seed)
{
    for (int n = 0; n < LANES; n++)
        for (int i = 0; i < SIZE; i++) {
            scalar[n][i] = (uint8_t)((seed = seed * 1103515245u + 12345) >> 16);
            point[n][i] = (uint8_t)((seed = seed * 1103515245u + 12345) >> 16);
        }
}

static void multiply(void)
{
    const uint8_t *scalars[LANES], *points[LANES];
    for (int i = 0; i < LANES; i++) { scalars[i] = scalar[i]; points[i] = point[i]; }
    x25519_lanes(product, scalars, points, LANES);
}

static void check_secrets(void)
{
    fill(1);
    SECRET(scalar, sizeof scalar);
    SECRET(point, sizeof point);
    multiply();
    PUBLISH(product, sizeof product);
    CHECK(memcmp(product[0], product[1], SIZE));
}

/* A thread of its own, whose stack can be looked at when it has ended. Nothing but what the caller
 * has anyhow may be left of the scalars: the ladder keeps them in words of a vector. */

static void *work(void *argument) { multiply(); return argument; }

static void check_stack(void)
{
    uint8_t *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pthread_attr_t attributes;
    pthread_t thread;
    CHECK(stack != MAP_FAILED);
    fill(2);
    pthread_attr_init(&attributes);
    CHECK(!pthread_attr_setstack(&attributes, stack, STACK));
    CHECK(!pthread_create(&thread, &attributes, work, NULL));
    pthread_join(thread, NULL);
    for (int n = 0; n < LANES; n++)
        for (int at = 8; at + 8 < SIZE; at += 8) {
            CHECK(!memmem(stack, STACK, scalar[n] + at, 8));
            CHECK(!memmem(stack, STACK, product[n] + at, 8));
        }
    /* The limbs of what is multiplied last: the product's lowest one in every lane. */
    for (int n = 0; n < LANES; n++) {
        uint64_t limb;
        memcpy(&limb, product[n], sizeof limb);
        limb &= ((uint64_t)1 << 51) - 1;
        CHECK(!memmem(stack, STACK, &limb, sizeof limb));
    }
}

static void multiply_it(void *unused) { multiply(); (void)unused; }

static void check_trace(void)
{
    memset(scalar, 0, sizeof scalar);
    memset(point, 0, sizeof point);
    uint64_t first = trace(multiply_it, NULL, FEWEST_STEPS);
    fill(3);
    memset(scalar[0], 0xff, SIZE);
    CHECK(trace(multiply_it, NULL, FEWEST_STEPS) == first);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    if (!x25519_can_run())
        return 3;
    if (!strcmp(argv[1], "secrets"))
        check_secrets();
    else if (!strcmp(argv[1], "stack"))
        check_stack();
    else if (!strcmp(argv[1], "trace"))
        check_trace();
    else
        check_vector();
    return 0;
}
