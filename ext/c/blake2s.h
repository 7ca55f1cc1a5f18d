/* BLAKE2s (RFC 7693), whole messages in one call. */
#ifndef FIREZONE_BLAKE2S_H
#define FIREZONE_BLAKE2S_H

#include <stddef.h>
#include <stdint.h>

/* Digest of 1-32 bytes, key of 0-32. The caller has checked the sizes. */
void blake2s(uint8_t *digest, size_t digest_size, const uint8_t *key, size_t key_size,
             const uint8_t *data, size_t size);

enum { KDF_MOST_OUTPUTS = 3, KDF_MOST_DATA = 64 };

/* HKDF (RFC 5869) over HMAC-BLAKE2s: `count` outputs. The caller has checked the sizes. */
void blake2s_kdf(uint8_t (*outputs)[32], int count, const uint8_t key[32], const uint8_t *data,
                 size_t size);

/* 1 if equal, in a time that depends on the size alone. */
int equal_constant_time(const uint8_t *a, const uint8_t *b, size_t size);

#endif
