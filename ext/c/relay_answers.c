#include "relay_answers.h"

#include <string.h>

#include "atomics.h"
#include "blake2s.h"
#include "stun.h"

enum {
    BINDING_REQUEST = 0x0001,
    ALLOCATE_REQUEST = 0x0003,
    LIFETIME = 0x000D,
    NONCE = 0x0015,
    REQUESTED_ADDRESS_FAMILY = 0x0017,
    EVEN_PORT = 0x0018,
    REQUESTED_TRANSPORT = 0x0019,
    DONT_FRAGMENT = 0x001A,
    XOR_MAPPED_ADDRESS = 0x0020,
    ADDITIONAL_ADDRESS_FAMILY = 0x8000,
    STAMP = 8,
    MAC = 16
};

/* Requests */

/* Whether an attribute can be read and changes nothing for who has no credentials. */
static int is_harmless(uint32_t code, const uint8_t *value, uint32_t size) {
    switch (code) {
    case STUN_SOFTWARE:
        return stun_is_short_ascii(value, size);
    case LIFETIME:
    case REQUESTED_TRANSPORT:
        return size == 4;
    case REQUESTED_ADDRESS_FAMILY:
    case ADDITIONAL_ADDRESS_FAMILY:
        return size == 4 && (value[0] == STUN_FAMILY_4 || value[0] == STUN_FAMILY_6);
    case EVEN_PORT:
        return size == 1;
    case DONT_FRAGMENT:
        return size == 0;
    default:
        return code >= STUN_OTHERS_OPTIONAL;
    }
}

/* Whether the attributes leave no doubt about the answer. FINGERPRINT asks for one in return. */
static int is_plain(const uint8_t *request, uint32_t size, int *fingerprinted) {
    for (uint32_t at = STUN_HEADER; at < size;) {
        uint32_t code = load16(request + at), length = load16(request + at + 2);
        const uint8_t *value = request + at + STUN_ATTRIBUTE;
        if (length > size - at - STUN_ATTRIBUTE)
            return 0;
        if (code == STUN_FINGERPRINT) {
            *fingerprinted = 1;
            return stun_is_fingerprinted(request, at, size);
        }
        if (!is_harmless(code, value, length))
            return 0;
        at += STUN_ATTRIBUTE + stun_padded(length);
    }
    return 1;
}

static relay_kind kind_of(const uint8_t *request, uint32_t size, int *fingerprinted) {
    if (size < STUN_HEADER || load32(request + STUN_TRANSACTION_ID - 4) != STUN_COOKIE)
        return RELAY_NO_ANSWER;
    uint32_t type = load16(request), length = load16(request + 2);
    if ((type != BINDING_REQUEST && type != ALLOCATE_REQUEST) || length % 4 != 0 ||
        length + STUN_HEADER != size || !is_plain(request, size, fingerprinted))
        return RELAY_NO_ANSWER;
    return type == BINDING_REQUEST ? RELAY_BINDING : RELAY_CHALLENGE;
}

/* Answers */

static uint8_t *put_identity(uint8_t *to, const relay_key *key, const uint8_t *address,
                             uint16_t port) {
    uint8_t size = key->family == 4 ? 4 : 16;
    *to++ = size;
    memcpy(to, address, size);
    store16(to + size, port);
    return to + size + 2;
}

/* RFC 4648 section 5, of a size that needs no padding. */
static uint8_t *put_base64(uint8_t *to, const uint8_t *data, uint32_t size) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    for (uint32_t i = 0; i < size; i += 3) {
        uint32_t word = load16(data + i) << 8 | data[i + 2];
        for (int shift = 18; shift >= 0; shift -= 6)
            *to++ = (uint8_t)digits[word >> shift & 63];
    }
    return to;
}

static uint8_t *put_nonce(uint8_t *to, const relay_answers *a, const relay_key *from,
                          uint64_t seconds) {
    uint8_t subject[STAMP + 2 * 19], raw[STAMP + MAC];
    uint8_t *end = subject + STAMP;
    store32(subject, (uint32_t)(seconds >> 32));
    store32(subject + 4, (uint32_t)seconds);
    end = put_identity(end, from, from->remote, from->port);
    end = put_identity(end, from, from->local, from->number);
    memcpy(raw, subject, STAMP);
    blake2s(raw + STAMP, MAC, a->nonce_key, RELAY_NONCE_KEY, subject, (size_t)(end - subject));
    to = stun_begin(to, NONCE, sizeof(raw) / 3 * 4);
    return put_base64(to, raw, sizeof(raw));
}

static uint8_t *put_fingerprint(uint8_t *to, uint8_t *message) {
    uint32_t size = (uint32_t)(to - message);
    store16(message + 2, size - STUN_HEADER + STUN_ATTRIBUTE + STUN_FINGERPRINT_SIZE);
    to = stun_begin(to, STUN_FINGERPRINT, STUN_FINGERPRINT_SIZE);
    store32(to, stun_fingerprint(message, size));
    return to + STUN_FINGERPRINT_SIZE;
}

uint32_t relay_answer(const relay_answers *a, const relay_key *from, const uint8_t *request,
                      uint32_t size, uint64_t seconds, uint8_t out[RELAY_ANSWER],
                      relay_kind *kind) {
    int fingerprinted = 0;
    *kind = RELAY_NO_ANSWER;
    if (!a->is_set || load_relaxed_u8(&a->deferred[from->family == 6][from->port]))
        return 0;
    *kind = kind_of(request, size, &fingerprinted);
    if (*kind == RELAY_NO_ANSWER)
        return 0;
    const relay_prologue *prologue = &a->of[*kind];
    uint8_t *end = out + prologue->size;
    memcpy(out, prologue->bytes, prologue->size);
    memcpy(out + STUN_TRANSACTION_ID, request + STUN_TRANSACTION_ID,
           STUN_HEADER - STUN_TRANSACTION_ID);
    if (*kind == RELAY_BINDING)
        end = stun_put_address(end, XOR_MAPPED_ADDRESS, from->family, from->remote, from->port,
                               out);
    else
        end = put_nonce(end, a, from, seconds);
    store16(out + 2, (uint32_t)(end - out) - STUN_HEADER);
    if (fingerprinted)
        end = put_fingerprint(end, out);
    return (uint32_t)(end - out);
}
