/* What STUN messages are made of (RFC 8489 sections 5 and 14, RFC 8656 section 18). */
#ifndef FIREZONE_STUN_H
#define FIREZONE_STUN_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "crc32.h"

enum {
    STUN_HEADER = 20,
    STUN_ATTRIBUTE = 4,       /* code and length */
    STUN_TRANSACTION_ID = 8,  /* where it begins; the cookie is before it */
    STUN_XOR_PEER_ADDRESS = 0x0012,
    STUN_DATA = 0x0013,
    STUN_SOFTWARE = 0x8022,
    STUN_FINGERPRINT = 0x8028,
    STUN_FINGERPRINT_SIZE = 4,
    STUN_OTHERS_OPTIONAL = 0xC000, /* from here on all may be ignored, and we know none */
    STUN_SHORT_TEXT = 127,         /* characters of SOFTWARE and the like */
    STUN_FAMILY_4 = 1,
    STUN_FAMILY_6 = 2
};

static const uint32_t STUN_COOKIE = 0x2112A442, STUN_FINGERPRINT_XOR = 0x5354554E;

static inline uint32_t load16(const uint8_t *p) { return (uint32_t)p[0] << 8 | p[1]; }

static inline uint32_t load32(const uint8_t *p) { return load16(p) << 16 | load16(p + 2); }

static inline void store16(uint8_t *p, uint32_t value) {
    p[0] = (uint8_t)(value >> 8);
    p[1] = (uint8_t)value;
}

static inline void store32(uint8_t *p, uint32_t value) {
    store16(p, value >> 16);
    store16(p + 2, value);
}

/* Whether it is a message of STUN (RFC 8489 section 6.3), as far as one look goes. */
static inline int stun_is_message(const uint8_t *data, uint32_t size) {
    return size >= STUN_HEADER && data[0] < 4 &&
           load32(data + STUN_TRANSACTION_ID - 4) == STUN_COOKIE;
}

/* Of a value's size, with its padding. */
static inline uint32_t stun_padded(uint32_t size) { return (size + 3) & ~3u; }

/* Starts an attribute; returns where its value goes. */
static inline uint8_t *stun_begin(uint8_t *to, uint32_t code, uint32_t size) {
    store16(to, code);
    store16(to + 2, size);
    return to + STUN_ATTRIBUTE;
}

/* An XOR-…-ADDRESS of a message whose header is there; returns its end. */
static inline uint8_t *stun_put_address(uint8_t *to, uint32_t code, uint8_t family,
                                        const uint8_t *address, uint16_t port,
                                        const uint8_t *message) {
    uint32_t size = family == 4 ? 4 : 16;
    const uint8_t *mask = message + STUN_TRANSACTION_ID - 4; /* the cookie, too */
    to = stun_begin(to, code, 4 + size);
    to[0] = 0;
    to[1] = family == 4 ? STUN_FAMILY_4 : STUN_FAMILY_6;
    store16(to + 2, port ^ load16(mask));
    for (uint32_t i = 0; i < size; i++)
        to[4 + i] = address[i] ^ mask[i];
    return to + 4 + size;
}

/* The header of a message that ends `more` bytes after its first `size`, whatever length it tells. */
static inline void stun_header_counting(uint8_t header[STUN_HEADER], const uint8_t *message,
                                        size_t size, size_t more) {
    memcpy(header, message, STUN_HEADER);
    store16(header + 2, (uint32_t)(size - STUN_HEADER + more));
}

/* The value of FINGERPRINT (RFC 8489 section 14.7) behind the first `size` bytes of a message, at
 * least its header: their CRC-32, and what tells it from that of a protocol that shares the port. The
 * length in the header counts that attribute and nothing after it, whatever stands there now. */
static inline uint32_t stun_fingerprint(const uint8_t *message, size_t size) {
    uint8_t header[STUN_HEADER];
    stun_header_counting(header, message, size, STUN_ATTRIBUTE + STUN_FINGERPRINT_SIZE);
    uint32_t crc = crc32_add(~0u, header, STUN_HEADER);
    return ~crc32_add(crc, message + STUN_HEADER, size - STUN_HEADER) ^ STUN_FINGERPRINT_XOR;
}

/* Whether FINGERPRINT, at that place, is the last attribute and right. */
static inline int stun_is_fingerprinted(const uint8_t *message, uint32_t at, uint32_t size) {
    return load16(message + at + 2) == STUN_FINGERPRINT_SIZE &&
           at + STUN_ATTRIBUTE + STUN_FINGERPRINT_SIZE == size &&
           load32(message + at + STUN_ATTRIBUTE) == stun_fingerprint(message, at);
}

/* Whether SOFTWARE can be read, of which that is plain at a look. */
static inline int stun_is_short_ascii(const uint8_t *text, uint32_t size) {
    uint8_t all = 0;
    for (uint32_t i = 0; i < size; i++)
        all |= text[i];
    return size <= STUN_SHORT_TEXT && all < 0x80;
}

#endif
