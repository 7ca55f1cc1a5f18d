/* What bench_aead.py measures with: libsodium and OpenSSL behind the interface of our backends, and the
 * clock. Calls from Python would cost more than the ciphers do.
 *
 * libsodium's functions are given by address. libcrypto is loaded; the few functions of its EVP
 * interface are declared here, so that no headers are needed. There is one context for each key and
 * direction, set up beforehand: what is measured is nonce, text and tag. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "aead.h"

typedef void (*batch_function)(aead_item *, size_t);
typedef unsigned long long ull;

static int (*sodium_encrypt)(uint8_t *, ull *, const uint8_t *, ull, const uint8_t *, ull,
                             const uint8_t *, const uint8_t *, const uint8_t *);
static int (*sodium_decrypt)(uint8_t *, ull *, uint8_t *, const uint8_t *, ull, const uint8_t *, ull,
                             const uint8_t *, const uint8_t *);

static void make_nonce(uint8_t nonce[12], uint64_t counter)
{
    memset(nonce, 0, 4);
    memcpy(nonce + 4, &counter, 8);
}

void set_sodium(void *encrypt, void *decrypt)
{
    memcpy(&sodium_encrypt, &encrypt, sizeof encrypt);
    memcpy(&sodium_decrypt, &decrypt, sizeof decrypt);
}

void sodium_seal(aead_item *items, size_t count)
{
    uint8_t nonce[12];
    for (aead_item *i = items; i < items + count; i++) {
        make_nonce(nonce, i->counter);
        sodium_encrypt(i->dst, NULL, i->src, i->length, NULL, 0, NULL, nonce, i->key);
    }
}

void sodium_open(aead_item *items, size_t count)
{
    uint8_t nonce[12];
    for (aead_item *i = items; i < items + count; i++) {
        make_nonce(nonce, i->counter);
        i->ok = sodium_decrypt(i->dst, NULL, NULL, i->src, i->length + 16, NULL, 0, nonce, i->key) == 0;
    }
}

enum { GET_TAG = 0x10, SET_TAG = 0x11, KEYS = 64 };
typedef struct evp_context evp_context;

static struct {
    evp_context *(*new)(void);
    const void *(*cipher)(void);
    int (*init)(evp_context *, const void *, void *, const uint8_t *, const uint8_t *, int);
    int (*update)(evp_context *, uint8_t *, int *, const uint8_t *, int);
    int (*final)(evp_context *, uint8_t *, int *);
    int (*ctrl)(evp_context *, int, int, void *);
} evp;
static const uint8_t *first_key;
static evp_context *sealing[KEYS], *opening[KEYS];

/* Sets up contexts for 64 keys of 32 bytes in a row. 0, or -1 if there is no libcrypto. */
int set_openssl(const char *library, const uint8_t *keys)
{
    static const char *const names[] = {
        "EVP_CIPHER_CTX_new", "EVP_chacha20_poly1305", "EVP_CipherInit_ex", "EVP_CipherUpdate",
        "EVP_CipherFinal_ex", "EVP_CIPHER_CTX_ctrl",
    };
    void *found[6], *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL)
        return -1;
    for (int i = 0; i < 6; i++)
        if ((found[i] = dlsym(handle, names[i])) == NULL)
            return -1;
    memcpy(&evp, found, sizeof found);
    first_key = keys;
    for (int i = 0; i < KEYS; i++) {
        sealing[i] = evp.new(); opening[i] = evp.new();
        evp.init(sealing[i], evp.cipher(), NULL, keys + 32 * i, NULL, 1);
        evp.init(opening[i], evp.cipher(), NULL, keys + 32 * i, NULL, 0);
    }
    return 0;
}

void openssl_seal(aead_item *items, size_t count)
{
    uint8_t nonce[12];
    int n;
    for (aead_item *i = items; i < items + count; i++) {
        evp_context *context = sealing[(i->key - first_key) / 32];
        make_nonce(nonce, i->counter);
        evp.init(context, NULL, NULL, NULL, nonce, 1);
        evp.update(context, i->dst, &n, i->src, (int)i->length);
        evp.final(context, i->dst + i->length, &n);
        evp.ctrl(context, GET_TAG, 16, i->dst + i->length);
    }
}

void openssl_open(aead_item *items, size_t count)
{
    uint8_t nonce[12];
    int n;
    for (aead_item *i = items; i < items + count; i++) {
        evp_context *context = opening[(i->key - first_key) / 32];
        make_nonce(nonce, i->counter);
        evp.init(context, NULL, NULL, NULL, nonce, 0);
        evp.ctrl(context, SET_TAG, 16, (void *)(uintptr_t)(i->src + i->length));
        evp.update(context, i->dst, &n, i->src, (int)i->length);
        i->ok = evp.final(context, i->dst + i->length, &n) == 1;
    }
}

/* Intel's library has no call for a batch of this cipher before version 1.5, and that one goes packet
 * by packet, too: these are its calls for a single packet, which it calls the fast ones. */
#if __has_include(<intel-ipsec-mb.h>)
#include <intel-ipsec-mb.h>

static IMB_MGR *ipsec_mb;

/* 0, or -1 if there is no such library. */
int set_ipsec_mb(const char *library)
{
    void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    IMB_MGR *(*allocate)(uint64_t);
    void (*init)(IMB_MGR *, IMB_ARCH *);
    if (handle == NULL)
        return -1;
    *(void **)&allocate = dlsym(handle, "alloc_mb_mgr");
    *(void **)&init = dlsym(handle, "init_mb_mgr_auto");
    if (allocate == NULL || init == NULL || (ipsec_mb = allocate(0)) == NULL)
        return -1;
    init(ipsec_mb, NULL);
    return 0;
}

void ipsec_mb_seal(aead_item *items, size_t count)
{
    struct chacha20_poly1305_context_data context;
    uint8_t nonce[12];
    for (aead_item *i = items; i < items + count; i++) {
        make_nonce(nonce, i->counter);
        IMB_CHACHA20_POLY1305_INIT(ipsec_mb, i->key, &context, nonce, NULL, 0);
        IMB_CHACHA20_POLY1305_ENC_UPDATE(ipsec_mb, i->key, &context, i->dst, i->src, i->length);
        IMB_CHACHA20_POLY1305_ENC_FINALIZE(ipsec_mb, &context, i->dst + i->length, 16);
    }
}

void ipsec_mb_open(aead_item *items, size_t count)
{
    struct chacha20_poly1305_context_data context;
    uint8_t nonce[12], tag[16];
    for (aead_item *i = items; i < items + count; i++) {
        make_nonce(nonce, i->counter);
        IMB_CHACHA20_POLY1305_INIT(ipsec_mb, i->key, &context, nonce, NULL, 0);
        IMB_CHACHA20_POLY1305_DEC_UPDATE(ipsec_mb, i->key, &context, i->dst, i->src, i->length);
        IMB_CHACHA20_POLY1305_DEC_FINALIZE(ipsec_mb, &context, tag, sizeof tag);
        i->ok = memcmp(tag, i->src + i->length, sizeof tag) == 0;
    }
}
#else
int set_ipsec_mb(const char *library)
{
    (void)library;
    return -1;
}
#endif

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* Nanoseconds a packet. Warms up first: 512-bit code starts slowly, and the clock that sustained
 * 512-bit multiplications lower stays low for whoever runs next. */
double measure(batch_function f, aead_item *items, size_t count, int64_t warm_up, int64_t sample)
{
    int64_t start = now(), calls = 0, passed;
    while (now() - start < warm_up)
        f(items, count);
    start = now();
    do {
        for (size_t i = 0; i < 1 + 64 / count; i++) {
            f(items, count);
            calls++;
        }
    } while ((passed = now() - start) < sample);
    return (double)passed / (double)calls / (double)count;
}
