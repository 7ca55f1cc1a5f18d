/* MESSAGE-INTEGRITY of a STUN message (RFC 8489 section 14.5).
 *
 * It covers the message up to the attribute itself, with the length in the header counting that
 * attribute and nothing after it, whatever stands there now. */
#ifndef FIREZONE_STUN_MAC_H
#define FIREZONE_STUN_MAC_H

#include <stddef.h>
#include <stdint.h>

enum { STUN_INTEGRITY_SIZE = 20 };

/* HMAC-SHA1 (RFC 2104) under a key of any size. `size` is that of all before the attribute, so at
 * least a header and at most what one can count: the caller has checked it. */
void stun_integrity(uint8_t mac[STUN_INTEGRITY_SIZE], const uint8_t *key, size_t key_size,
                    const uint8_t *message, size_t size);

#endif
