/* The Internet checksum (RFC 1071), summed in wide words.
 *
 * Sums are of 16-bit words as they lie in memory, so that no byte is ever swapped (section 2(B)):
 * what is added by hand goes in as htons() would store it, and a folded sum is stored as it is.
 * Pieces may follow each other as long as all but the last have an even size. */
#ifndef FIREZONE_CHECKSUM_H
#define FIREZONE_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* `sum` and the words of `data`. An odd last byte counts as if a zero followed. At most 1 GiB. */
uint64_t checksum_add(uint64_t sum, const uint8_t *data, size_t size);

/* The same, and copies the bytes in the same pass. They do not overlap. */
uint64_t checksum_copy(uint64_t sum, uint8_t *to, const uint8_t *from, size_t size);

/* A sum in 16 bits, not complemented. */
static inline uint16_t checksum_fold(uint64_t sum)
{
    sum = (sum & 0xFFFFFFFF) + (sum >> 32);
    sum = (sum & 0xFFFFFFFF) + (sum >> 32);
    sum = (sum & 0xFFFF) + (sum >> 16);
    sum = (sum & 0xFFFF) + (sum >> 16);
    return (uint16_t)((sum & 0xFFFF) + (sum >> 16));
}

#endif
