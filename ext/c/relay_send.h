/* How what was read leaves: runs of a channel's datagrams, and answers to strangers. Between the files
 * of the data path only. */
#ifndef FIREZONE_RELAY_SEND_H
#define FIREZONE_RELAY_SEND_H

#include "atomics.h"
#include "relay_forward.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

enum { RELAY_HEADER = 4 }; /* of ChannelData: number and length (RFC 8656 section 12.4) */

static inline void relay_add(uint64_t *counter, uint64_t amount) {
    store_relaxed_u64(counter, *counter + amount);
}

typedef struct {
    uint8_t *data;
    uint32_t size, stride; /* of the whole, and of each datagram but the last */
    uint8_t ecn;
} relay_buffer;

/* One datagram more, in the direction of the worker; `data` stays until the flush. */
void relay_append(relay_worker *w, relay_channel *c, uint8_t *data, uint32_t size, uint8_t ecn);

/* Sends all runs. */
void relay_flush(relay_worker *w);

/* Whether the request needs nothing of Python. A full read says that more waits: if that may be
 * data, a flood gets no more than a part of the time. */
int relay_reply_to(relay_worker *w, const relay_socket *s, const relay_key *key,
                   const uint8_t *data, uint32_t size);

/* Sends all answers. */
void relay_send_replies(relay_worker *w, const relay_socket *s);

#endif
