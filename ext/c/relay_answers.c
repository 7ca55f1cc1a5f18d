#include "relay_answers.h"

#include <string.h>

#include "atomics.h"
#include "blake2s.h"

/* RFC 8489 sections 5 and 14, RFC 8656 section 18. */
enum {
    HEADER = 20,
    ATTRIBUTE = 4,
    TRANSACTION_ID = 8, /* where it begins; the cookie is before it */
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
    SOFTWARE = 0x8022,
    FINGERPRINT = 0x8028,
    OTHERS_OPTIONAL = 0xC000, /* from here on all may be ignored, and we know none */
    SHORT_TEXT = 127,
    STAMP = 8,
    MAC = 16
};

static const uint32_t COOKIE = 0x2112A442, FINGERPRINT_XOR = 0x5354554E;

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

/* CRC-32 of ITU V.42, four bits at a time. */
static uint32_t crc32(const uint8_t *data, uint32_t size) {
    static const uint32_t table[16] = {
        0x00000000, 0x1DB71064, 0x3B6E20C8, 0x26D930AC, 0x76DC4190, 0x6B6B51F4,
        0x4DB26158, 0x5005713C, 0xEDB88320, 0xF00F9344, 0xD6D6A3E8, 0xCB61B38C,
        0x9B64C2B0, 0x86D3D2D4, 0xA00AE278, 0xBDBDF21C};
    uint32_t crc = ~0u;
    for (uint32_t i = 0; i < size; i++) {
        crc ^= data[i];
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}

/* Requests */

static int is_ascii(const uint8_t *text, uint32_t size) {
    for (uint32_t i = 0; i < size; i++)
        if (text[i] >= 0x80)
            return 0;
    return 1;
}

/* Whether an attribute can be read and changes nothing for who has no credentials. */
static int is_harmless(uint32_t code, const uint8_t *value, uint32_t size) {
    switch (code) {
    case SOFTWARE:
        return size <= SHORT_TEXT && is_ascii(value, size);
    case LIFETIME:
    case REQUESTED_TRANSPORT:
        return size == 4;
    case REQUESTED_ADDRESS_FAMILY:
    case ADDITIONAL_ADDRESS_FAMILY:
        return size == 4 && (value[0] == 1 || value[0] == 2);
    case EVEN_PORT:
        return size == 1;
    case DONT_FRAGMENT:
        return size == 0;
    default:
        return code >= OTHERS_OPTIONAL;
    }
}

/* Whether the attributes leave no doubt about the answer. FINGERPRINT asks for one in return. */
static int is_plain(const uint8_t *request, uint32_t size, int *fingerprinted) {
    for (uint32_t at = HEADER; at < size;) {
        uint32_t code = load16(request + at), length = load16(request + at + 2);
        const uint8_t *value = request + at + ATTRIBUTE;
        if (length > size - at - ATTRIBUTE)
            return 0;
        if (code == FINGERPRINT) {
            *fingerprinted = 1;
            return length == 4 && at + ATTRIBUTE + 4 == size &&
                   load32(value) == (crc32(request, at) ^ FINGERPRINT_XOR);
        }
        if (!is_harmless(code, value, length))
            return 0;
        at += ATTRIBUTE + ((length + 3) & ~3u);
    }
    return 1;
}

static relay_kind kind_of(const uint8_t *request, uint32_t size, int *fingerprinted) {
    if (size < HEADER || load32(request + TRANSACTION_ID - 4) != COOKIE)
        return RELAY_NO_ANSWER;
    uint32_t type = load16(request), length = load16(request + 2);
    if ((type != BINDING_REQUEST && type != ALLOCATE_REQUEST) || length % 4 != 0 ||
        length + HEADER != size || !is_plain(request, size, fingerprinted))
        return RELAY_NO_ANSWER;
    return type == BINDING_REQUEST ? RELAY_BINDING : RELAY_CHALLENGE;
}

/* Answers */

static uint8_t *begin(uint8_t *to, uint32_t code, uint32_t size) {
    store16(to, code);
    store16(to + 2, size);
    return to + ATTRIBUTE;
}

static uint8_t *put_mapped(uint8_t *to, const relay_key *from, const uint8_t *message) {
    uint32_t size = from->family == 4 ? 4 : 16;
    const uint8_t *mask = message + TRANSACTION_ID - 4; /* the cookie, too */
    to = begin(to, XOR_MAPPED_ADDRESS, 4 + size);
    to[0] = 0;
    to[1] = from->family == 4 ? 1 : 2;
    store16(to + 2, from->port ^ load16(mask));
    for (uint32_t i = 0; i < size; i++)
        to[4 + i] = from->remote[i] ^ mask[i];
    return to + 4 + size;
}

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
    to = begin(to, NONCE, sizeof(raw) / 3 * 4);
    return put_base64(to, raw, sizeof(raw));
}

static uint8_t *put_fingerprint(uint8_t *to, uint8_t *message) {
    uint32_t size = (uint32_t)(to - message);
    store16(message + 2, size - HEADER + ATTRIBUTE + 4);
    uint32_t crc = crc32(message, size);
    to = begin(to, FINGERPRINT, 4);
    store32(to, crc ^ FINGERPRINT_XOR);
    return to + 4;
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
    memcpy(out + TRANSACTION_ID, request + TRANSACTION_ID, HEADER - TRANSACTION_ID);
    if (*kind == RELAY_BINDING)
        end = put_mapped(end, from, out);
    else
        end = put_nonce(end, a, from, seconds);
    store16(out + 2, (uint32_t)(end - out) - HEADER);
    if (fingerprinted)
        end = put_fingerprint(end, out);
    return (uint32_t)(end - out);
}
