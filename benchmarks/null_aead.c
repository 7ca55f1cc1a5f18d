/* The cipher of the null tunnel: every byte is read and written once, the tag is always the same.
 * It protects nothing. It is no part of the package: benchmarks/null_tunnel.py builds and loads it. */
#include <string.h>

#include "aead.h"

enum { TAG = 16, PIECE = 1024 };

static const uint8_t fake_tag[TAG] = "no authenticity!";

/* Packets are mostly sealed in place, where a plain copy would be nothing at all. */
static void copy(uint8_t *dst, const uint8_t *src, size_t length)
{
    uint8_t piece[PIECE];

    for (size_t done = 0; done < length; done += PIECE) {
        size_t n = length - done < PIECE ? length - done : PIECE;

        memcpy(piece, src + done, n);
        __asm__ volatile("" : : "r"(piece) : "memory");
        memcpy(dst + done, piece, n);
    }
}

void null_seal(aead_item *items, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        copy(items[i].dst, items[i].src, items[i].length);
        memcpy(items[i].dst + items[i].length, fake_tag, TAG);
    }
}

void null_open(aead_item *items, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        items[i].ok = memcmp(items[i].src + items[i].length, fake_tag, TAG) == 0;
        if (items[i].ok)
            copy(items[i].dst, items[i].src, items[i].length);
    }
}
