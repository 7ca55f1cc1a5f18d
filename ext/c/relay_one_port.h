/* The relay with one port: what of a listening socket is a peer's, and whom it is for.
 *
 * Handshakes of ICE and WireGuard go through `control`, both ways, and there it is learnt which
 * indices are whose (firezone/turn/relay_one_port.py). WireGuard's data finds its channel by peer and
 * receiver index in the table of steers, all else by the peer alone. */
#ifndef FIREZONE_RELAY_ONE_PORT_H
#define FIREZONE_RELAY_ONE_PORT_H

#include "relay_send.h"

/* The index of a steer is a kind and, with the first one, four bytes as sent. */
enum {
    RELAY_STEER_INDEX = 1,
    RELAY_STEER_UNKNOWN_INDEX,
    RELAY_STEER_ANY,
    RELAY_STEER_ADDRESS, /* of a peer, whatever its port */
    RELAY_STEER_CLIENT   /* a peer that is a client, too */
};

/* Makes the key of a peer that of a steer. `index` may be NULL for the other kinds. */
void relay_steer_key(relay_key *peer, uint8_t kind, const uint8_t *index);

/* Whether it comes from a relayed address: of our own sockets, by loopback, or of who pretends to it.
 * Nothing from there is a client's. */
int relay_is_own(const relay_socket *s, const relay_key *from);

/* Whether a datagram is a peer's, from an address that is not our own; `from` has our port. STUN is
 * told apart in `control`. */
int relay_is_peers(const relay_worker *w, const relay_key *from, const uint8_t *data,
                   uint32_t size);

/* Whether it is a STUN message or one of WireGuard's handshake. */
int relay_names_somebody(const uint8_t *data, uint32_t size);

/* Whether the peer of a channel is a client that would take this for ChannelData of ours, as it comes
 * from the same address. */
int relay_is_disguised(const relay_worker *w, const relay_channel *c, const uint8_t *data,
                       uint32_t size);

/* Sends on what in a buffer is a peer's. */
void relay_from_peers(relay_worker *w, const relay_socket *s, const relay_buffer *b,
                      const relay_key *from);

#endif
