#include "relay_one_port.h"

#include <string.h>

#include "stun.h"

enum { WIREGUARD_DATA = 4, RECEIVER = 4, SMALLEST_DATA = 32 };

void relay_steer_key(relay_key *peer, uint8_t kind, const uint8_t *index) {
    memset(peer->local, 0, sizeof(peer->local));
    peer->number = 0;
    peer->local[0] = kind;
    if (kind == RELAY_STEER_INDEX)
        memcpy(peer->local + 4, index, 4);
    if (kind == RELAY_STEER_ADDRESS)
        peer->port = 0;
}

static void loopback_of(uint8_t family, uint8_t address[16]) {
    memset(address, 0, 16);
    if (family == 4)
        address[0] = 127;
    address[family == 4 ? 3 : 15] = 1;
}

int relay_is_own(const relay_socket *s, const relay_key *from) {
    uint8_t loopback[16];
    if (from->port != s->port)
        return 0;
    loopback_of(from->family, loopback);
    return memcmp(from->remote, s->own, 16) == 0 || memcmp(from->remote, loopback, 16) == 0;
}

static relay_node *steer_of(const relay_worker *w, const relay_key *peer, uint8_t kind) {
    relay_key key = *peer;
    relay_steer_key(&key, kind, NULL);
    return relay_table_find(&w->tables->steers, &key);
}

/* Whether anybody has a channel to it. */
static inline int is_known(const relay_worker *w, const relay_key *peer) {
    return steer_of(w, peer, RELAY_STEER_ANY) != NULL;
}

/* Whether anybody may have its data without one. */
static inline int is_permitted(const relay_worker *w, const relay_key *peer) {
    return steer_of(w, peer, RELAY_STEER_ADDRESS) != NULL;
}

int relay_is_peers(const relay_worker *w, const relay_key *from, const uint8_t *data,
                   uint32_t size) {
    relay_key channel = *from;
    if (data[0] < 0x40 || data[0] >= 0x80)
        return !stun_is_message(data, size);
    if (size >= 2) {
        channel.number = (uint16_t)(data[0] << 8 | data[1]);
        if (relay_table_find(&w->tables->forward, &channel) != NULL)
            return 0;
    }
    return is_known(w, from) || is_permitted(w, from);
}

static int is_wireguard(const uint8_t *data, uint32_t size) {
    static const uint8_t zeros[3];
    return size >= SMALLEST_DATA && memcmp(data + 1, zeros, 3) == 0;
}

int relay_names_somebody(const uint8_t *data, uint32_t size) {
    static const uint8_t sizes[WIREGUARD_DATA] = {0, 148, 92, 64};
    if (stun_is_message(data, size))
        return 1;
    return is_wireguard(data, size) && data[0] < WIREGUARD_DATA && size == sizes[data[0]];
}

int relay_is_disguised(const relay_worker *w, const relay_channel *c, const uint8_t *data,
                       uint32_t size) {
    return size != 0 && data[0] >= 0x40 && data[0] < 0x80 &&
           steer_of(w, &c->back.key, RELAY_STEER_CLIENT) != NULL;
}

/* The channel by an index, remembered for the datagrams that follow. */
static relay_channel *find(relay_worker *w, const relay_key *peer, uint8_t kind,
                           const uint8_t *index) {
    relay_key key = *peer;
    relay_steer_key(&key, kind, index);
    if (memcmp(&w->last_key, &key, sizeof(key)) != 0) {
        relay_node *node = relay_table_find(&w->tables->steers, &key);
        const relay_steer *steer = node == NULL ? NULL : node->owner;
        w->last_key = key;
        w->last_channel = steer == NULL ? NULL : load_acquire_pointer(&steer->channel);
    }
    return w->last_channel;
}

static relay_channel *addressee(relay_worker *w, const relay_key *peer, const uint8_t *data,
                                uint32_t size) {
    relay_channel *channel = NULL;
    if (is_wireguard(data, size) && data[0] == WIREGUARD_DATA) {
        channel = find(w, peer, RELAY_STEER_INDEX, data + RECEIVER);
        if (channel == NULL)
            channel = find(w, peer, RELAY_STEER_UNKNOWN_INDEX, NULL);
    }
    return channel != NULL ? channel : find(w, peer, RELAY_STEER_ANY, NULL);
}

static void from_peer(relay_worker *w, const relay_key *from, uint8_t *data, uint32_t size,
                      uint8_t ecn) {
    int names = relay_names_somebody(data, size);
    relay_channel *channel = names ? NULL : addressee(w, from, data, size);
    if (channel != NULL) {
        relay_append(w, channel, data, size, ecn);
        return;
    }
    int known = from->port != 0 && is_known(w, from);
    if ((known && names) || (!known && from->port != 0 && is_permitted(w, from)))
        w->control(w, from, data, size);
    else
        relay_add(known ? &w->ambiguous : &w->counts[RELAY_TO_CLIENT].unbound, 1);
}

void relay_from_peers(relay_worker *w, const relay_socket *s, const relay_buffer *b,
                      const relay_key *from) {
    relay_key peer = *from;
    int own = relay_is_own(s, from);
    uint32_t size, at = 0;
    memset(peer.local, 0, sizeof(peer.local));
    if (own) /* by whichever of its addresses */
        loopback_of(peer.family, peer.remote);
    for (; at < b->size; at += size) {
        uint8_t *data = b->data + at;
        size = b->size - at < b->stride ? b->size - at : b->stride;
        if (own || relay_is_peers(w, from, data, size))
            from_peer(w, &peer, data, size, b->ecn);
    }
}
