#include "crc32.h"

enum { SLICES = 8 };

/* [k][b]: what the byte b does to the remainder when k bytes follow it. */
static uint32_t tables[SLICES][256];

__attribute__((constructor)) static void make_tables(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320 : 0);
        tables[0][byte] = crc;
    }
    for (int k = 1; k < SLICES; k++)
        for (uint32_t byte = 0; byte < 256; byte++)
            tables[k][byte] = tables[k - 1][byte] >> 8 ^ tables[0][tables[k - 1][byte] & 0xFF];
}

static inline uint32_t little_endian(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

uint32_t crc32_add(uint32_t crc, const uint8_t *data, size_t size) {
    for (; size >= SLICES; data += SLICES, size -= SLICES) {
        uint32_t first = crc ^ little_endian(data), second = little_endian(data + 4);
        crc = tables[7][first & 0xFF] ^ tables[6][first >> 8 & 0xFF] ^
              tables[5][first >> 16 & 0xFF] ^ tables[4][first >> 24] ^ tables[3][second & 0xFF] ^
              tables[2][second >> 8 & 0xFF] ^ tables[1][second >> 16 & 0xFF] ^
              tables[0][second >> 24];
    }
    while (size-- != 0)
        crc = crc >> 8 ^ tables[0][(crc ^ *data++) & 0xFF];
    return crc;
}
