/* CRC-32 of ITU V.42, as in FINGERPRINT (RFC 8489 section 14.7): eight bytes at a time, by tables that
 * are made when the library is loaded (Kounavis, Berry: Slicing-by-8, 2005). */
#ifndef FIREZONE_CRC32_H
#define FIREZONE_CRC32_H

#include <stdint.h>

uint32_t crc32_of(const uint8_t *data, uint32_t size);

#endif
