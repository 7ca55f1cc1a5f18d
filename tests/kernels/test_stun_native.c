/* Checks stun_mac.c by itself; run by test_stun_native.py under sanitizers and as it is.
 *
 *   check vectors   RFC 5769 section 2.1: MESSAGE-INTEGRITY and FINGERPRINT of its request
 *   check sizes     messages and keys of every size about a block's, each in memory of just its size
 *   check stack     no key stays on the stack
 *
 * Exit code 0: fine; 1: wrong. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "stun.h"
#include "stun_mac.h"

#define CHECK(what) do { if (!(what)) { printf("not so: %s\n", #what); exit(1); } } while (0)

enum { STACK = 1 << 20, KEY = 64, MOST = 300 };

static const uint8_t REQUEST[] =
    "\x00\x01\x00\x58\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae"
    "\x80\x22\x00\x10STUN test client\x00\x24\x00\x04\x6e\x00\x01\xff"
    "\x80\x29\x00\x08\x93\x2f\xf9\xb1\x51\x26\x3b\x36\x00\x06\x00\x09\x65\x76\x74\x6a\x3a\x68\x36\x76\x59\x20\x20\x20"
    "\x00\x08\x00\x14\x9a\xea\xa7\x0c\xbf\xd8\xcb\x56\x78\x1e\xf2\xb5\xb2\xd3\xf2\x49\xc1\xb5\x71\xa2"
    "\x80\x28\x00\x04\xe5\x7a\x3b\xcf";
static const char PASSWORD[] = "VOkJxbRl1RmTxUk/WvJxBt";

static void check_vectors(void)
{
    size_t size = sizeof(REQUEST) - 1, fingerprint_at = size - 8, integrity_at = fingerprint_at - 24;
    uint8_t mac[STUN_INTEGRITY_SIZE];
    uint32_t crc = stun_fingerprint(REQUEST, fingerprint_at);
    stun_integrity(mac, (const uint8_t *)PASSWORD, sizeof(PASSWORD) - 1, REQUEST, integrity_at);
    CHECK(!memcmp(mac, REQUEST + integrity_at + STUN_ATTRIBUTE, STUN_INTEGRITY_SIZE));
    CHECK(crc == 0xe57a3bcf);
}

/* Each size gives another MAC, or something would not count. */
static void check_sizes(void)
{
    static uint8_t macs[MOST][STUN_INTEGRITY_SIZE];
    for (size_t size = STUN_HEADER; size < MOST; size++) {
        uint8_t *message = calloc(1, size), *key = malloc(size);
        memset(key, 7, size);
        stun_integrity(macs[size], key, size, message, size);
        for (size_t other = STUN_HEADER; other < size; other++)
            CHECK(memcmp(macs[size], macs[other], STUN_INTEGRITY_SIZE));
        stun_integrity(macs[0], NULL, 0, message, size);
        CHECK(stun_fingerprint(message, size) != 0);
        free(message); free(key);
    }
}

static uint8_t key[KEY], message[MOST], mac[STUN_INTEGRITY_SIZE];

static void *sign(void *unused)
{
    stun_integrity(mac, key, KEY, message, MOST);
    return unused;
}

/* Neither the key, nor it under either pad; in either order of bytes. */
static void check_stack(void)
{
    static const uint8_t pads[] = {0, 0x36, 0x5C};
    uint8_t *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pthread_attr_t attributes;
    pthread_t thread;
    for (int i = 0; i < KEY; i++) key[i] = (uint8_t)(37 * i + 11);
    pthread_attr_init(&attributes);
    pthread_attr_setstack(&attributes, stack, STACK);
    CHECK(!pthread_create(&thread, &attributes, sign, NULL));
    pthread_join(thread, NULL);
    for (size_t p = 0; p < sizeof(pads); p++)
        for (int at = 0; at + 8 <= KEY; at += 8) {
            uint8_t plain[8], turned[8];
            for (int i = 0; i < 8; i++) {
                plain[i] = key[at + i] ^ pads[p];
                turned[(i & 4) + 3 - (i & 3)] = plain[i];
            }
            CHECK(!memmem(stack, STACK, plain, 8));
            CHECK(!memmem(stack, STACK, turned, 8));
        }
}

int main(int count, char **words)
{
    const char *what = count > 1 ? words[1] : "";
    if (!strcmp(what, "vectors")) check_vectors();
    else if (!strcmp(what, "sizes")) check_sizes();
    else if (!strcmp(what, "stack")) check_stack();
    else return 2;
    return 0;
}
