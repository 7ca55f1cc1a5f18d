/* CRC-32 of ITU V.42, as in FINGERPRINT (RFC 8489 section 14.7): eight bytes at a time, by tables that
 * are made when the library is loaded (Kounavis, Berry: Slicing-by-8, 2005). */
#ifndef FIREZONE_CRC32_H
#define FIREZONE_CRC32_H

#include <stddef.h>
#include <stdint.h>

/* Takes more bytes into a remainder, which is ~0 at first and to be inverted at last. */
uint32_t crc32_add(uint32_t crc, const uint8_t *data, size_t size);

#endif
