/* X25519 (RFC 7748), four scalar multiplications at a time in the lanes of AVX-512's 256-bit
 * registers. */
#ifndef FIREZONE_X25519_H
#define FIREZONE_X25519_H

#include <stdint.h>

enum { X25519_SIZE = 32, X25519_LANES = 4 };

/* Whether this build, the CPU and its system can run x25519_lanes. */
int x25519_can_run(void);

/* `count`, 1 to 4, products of a scalar and a point; one or four take the same time. A product of a
 * point of small order is zero: the caller is to refuse that. */
void x25519_lanes(uint8_t (*products)[X25519_SIZE], const uint8_t *const *scalars,
                  const uint8_t *const *points, int count);

#endif
