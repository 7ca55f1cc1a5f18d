/* Send and Data (RFC 8656 sections 10 and 11): what crosses the relay without a channel.
 *
 * A client that takes Data is known by the two addresses of its datagrams, and its permissions by
 * the port of its allocation and the peer's address. A Send is read here if it is a plain one and
 * its peer is permitted; every other one is left to Python, which knows why it is none. Like data of
 * channels, datagrams of one client and one peer that have the same size leave as one message
 * (UDP_SEGMENT), and no payload is copied. */
#ifndef FIREZONE_RELAY_INDICATIONS_H
#define FIREZONE_RELAY_INDICATIONS_H

#include "relay_forward.h"

/* A client with permissions. */
typedef struct relay_client {
    relay_block block;
    relay_node node; /* by its address, the one that it sends to, and the port it sends to */
    relay_socket *listener;
    relay_name name;
    uint8_t source[40]; /* ancillary data: the address that it sends to */
    uint32_t source_size;
    uint32_t permits; /* writer */
    uint16_t port;    /* of its allocation */
} relay_client;

typedef struct relay_permit {
    relay_block block;
    relay_node node; /* by allocation and address: the key's port is 0 */
    relay_client *client;
    relay_socket *relay;
    uint8_t any_port; /* or, of an address of our own, only those of allocations */
    /* Workers, by direction: sizes from here on go unmerged, past the MTU; and the batch that was
     * opened last, which counts only if that batch still says the same. */
    uint32_t too_large[2], batch[2];
} relay_permit;

/* The writer. Lets data cross between a client, which sends to `listener`, and a peer's address; or
 * sets `any_port` anew. -1 without memory, -2 if the client has another allocation. */
int relay_permit_add(relay_tables *t, const relay_key *client, const relay_key *peer,
                     relay_socket *listener, relay_socket *relay, int any_port,
                     relay_block **retired);

/* The writer. Whether it was permitted. */
int relay_permit_remove(relay_tables *t, const relay_key *peer, relay_block **retired);

/* The permission of a peer, whose port does not matter, or NULL. */
relay_permit *relay_permit_find(const relay_tables *t, const relay_key *peer);

/* `seed` makes transaction ids, which nobody has to guess: there is no answer to an indication. */
struct relay_indications *relay_indications_new(uint64_t seed);

/* Payload bytes that went by Send and Data, and data too long for an indication. */
uint64_t relay_indicated_bytes(const struct relay_indications *i);
uint64_t relay_too_long(const struct relay_indications *i);

/* Whether that message is a Send which goes to its peer now. */
int relay_send(relay_worker *w, const relay_key *from, uint8_t *data, uint32_t size, uint8_t ecn);

/* Data of a permitted peer for its client. */
void relay_data(relay_worker *w, relay_permit *p, const relay_key *peer, uint8_t *data,
                uint32_t size, uint8_t ecn);

/* Sends all of it: at the end of a read. */
void relay_indications_flush(relay_worker *w);

#endif
