#define _GNU_SOURCE
#include "relay_indications.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "relay_out.h"
#include "siphash.h"
#include "stun.h"

enum {
    SEND_INDICATION = 0x0016,
    DATA_INDICATION = 0x0017,
    ADDRESS_4 = 4 + 4, /* values of XOR-PEER-ADDRESS */
    ADDRESS_6 = 4 + 16,
    FRAMING_4 = STUN_HEADER + STUN_ATTRIBUTE + ADDRESS_4 + STUN_ATTRIBUTE, /* before the data */
    FRAMING_6 = STUN_HEADER + STUN_ATTRIBUTE + ADDRESS_6 + STUN_ATTRIBUTE,
    BATCHES = 128,   /* as many as there are buffers in a read */
    FRAMINGS = 1024, /* of Data, in all batches */
    MOST_VECTORS = 3 /* of a datagram: framing, payload, padding */
};

/* Datagrams that leave as one message. */
typedef struct {
    relay_permit *permit;
    relay_name to;
    uint32_t size; /* of its datagrams as sent, but that the last may be shorter */
    uint32_t count, total, payload;
    uint16_t port; /* the peer's */
    uint8_t ecn, closed;
} batch;

typedef struct relay_indications {
    uint64_t random;
    uint64_t bytes, too_long;
    relay_key last_from; /* of this read's last Send */
    relay_client *last_client;
    uint32_t batches, framings;
    batch batch[BATCHES];
    struct iovec vectors[BATCHES][MOST_VECTORS * RELAY_SEGMENTS];
    uint8_t framing[FRAMINGS][FRAMING_6];
} relay_indications;

/* The tables */

static inline void retire(relay_block **retired, relay_block *block) {
    block->next = *retired;
    *retired = block;
}

static relay_client *client_of(relay_tables *t, const relay_key *key, relay_socket *listener,
                               uint16_t port, relay_block **retired) {
    relay_node *node = relay_table_find(&t->clients, key);
    if (node != NULL)
        return node->owner;
    relay_client *c = calloc(1, sizeof(*c));
    if (c == NULL)
        return NULL;
    c->node.key = *key;
    c->node.owner = c;
    c->listener = listener;
    c->port = port;
    compose_name(&c->name, key->family, key->remote, key->port);
    c->source_size = (uint32_t)put_source(c->source, key);
    if (relay_table_insert(&t->clients, &c->node, retired) < 0) {
        free(c);
        return NULL;
    }
    return c;
}

static void leave(relay_tables *t, relay_client *c, relay_block **retired) {
    if (c->permits != 0)
        return;
    relay_table_remove(&t->clients, &c->node, retired);
    retire(retired, &c->block);
}

int relay_permit_add(relay_tables *t, const relay_key *client, const relay_key *peer,
                     relay_socket *listener, relay_socket *relay, int any_port,
                     relay_block **retired) {
    relay_permit *p = relay_permit_find(t, peer);
    if (p != NULL) {
        if (memcmp(&p->client->node.key, client, sizeof(*client)) != 0)
            return -2;
        store_relaxed_u8(&p->any_port, any_port != 0);
        return 0;
    }
    relay_client *c = client_of(t, client, listener, peer->number, retired);
    if (c != NULL && c->port != peer->number)
        return -2;
    p = c == NULL ? NULL : calloc(1, sizeof(*p));
    if (p != NULL) {
        p->node.key = *peer;
        p->node.owner = p;
        p->client = c;
        p->relay = relay;
        p->any_port = any_port != 0;
        p->too_large[RELAY_TO_PEER] = p->too_large[RELAY_TO_CLIENT] = UINT32_MAX;
    }
    if (p == NULL || relay_table_insert(&t->permits, &p->node, retired) < 0) {
        free(p);
        if (c != NULL)
            leave(t, c, retired);
        return -1;
    }
    c->permits++;
    store_relaxed_u32(&relay->permits, relay->permits + 1);
    return 0;
}

int relay_permit_remove(relay_tables *t, const relay_key *peer, relay_block **retired) {
    relay_permit *p = relay_permit_find(t, peer);
    if (p == NULL)
        return 0;
    relay_table_remove(&t->permits, &p->node, retired);
    store_relaxed_u32(&p->relay->permits, p->relay->permits - 1);
    p->client->permits--;
    leave(t, p->client, retired);
    retire(retired, &p->block);
    return 1;
}

relay_permit *relay_permit_find(const relay_tables *t, const relay_key *peer) {
    relay_key key = *peer;
    key.port = 0;
    relay_node *node = relay_table_find(&t->permits, &key);
    return node == NULL ? NULL : node->owner;
}

/* Batches */

static inline relay_socket *sender(const relay_worker *w, const batch *b) {
    return w->direction == RELAY_TO_PEER ? b->permit->relay : b->permit->client->listener;
}

static inline uint32_t vectors_each(const relay_worker *w) {
    return w->direction == RELAY_TO_PEER ? 1 : MOST_VECTORS;
}

static batch *open_batch(relay_worker *w, relay_permit *p, const relay_key *peer, uint32_t size,
                         uint8_t ecn) {
    relay_indications *all = w->indications;
    if (all->batches == BATCHES)
        relay_indications_flush(w);
    batch *b = &all->batch[all->batches];
    *b = (batch){.permit = p, .size = size, .port = peer->port, .ecn = ecn};
    if (w->direction == RELAY_TO_PEER)
        compose_name(&b->to, peer->family, peer->remote, peer->port);
    else
        b->to = p->client->name;
    b->closed = !w->gso || load_relaxed_u8(&sender(w, b)->no_gso) || size == 0 ||
                size >= load_relaxed_u32(&p->too_large[w->direction]);
    store_relaxed_u32(&p->batch[w->direction], all->batches++);
    return b;
}

static int takes(const relay_worker *w, const batch *b, uint16_t port, uint32_t size,
                 uint8_t ecn) {
    uint32_t limit = sender(w, b)->family == 4 ? MAX_V4 : MAX_V6;
    return !b->closed && b->port == port && b->count < RELAY_SEGMENTS && b->ecn == ecn &&
           size != 0 && size <= b->size && b->total + size <= limit;
}

/* Room for the vectors of one more datagram of a client and a peer, in a batch that takes it. */
static struct iovec *append(relay_worker *w, relay_permit *p, const relay_key *peer,
                            uint32_t sent, uint32_t payload, uint8_t ecn) {
    relay_indications *all = w->indications;
    uint32_t last = load_relaxed_u32(&p->batch[w->direction]);
    batch *b = &all->batch[last % BATCHES];
    if (last >= all->batches || b->permit != p || !takes(w, b, peer->port, sent, ecn))
        b = open_batch(w, p, peer, sent, ecn);
    struct iovec *v = all->vectors[b - all->batch] + (size_t)b->count * vectors_each(w);
    b->count++;
    b->total += sent;
    b->payload += payload;
    b->closed |= sent < b->size;
    return v;
}

/* In: Send */

static int read_peer(const uint8_t *message, const uint8_t *value, uint32_t size,
                     relay_key *peer) {
    const uint8_t *mask = message + STUN_TRANSACTION_ID - 4;
    if (!(size == ADDRESS_4 && value[1] == STUN_FAMILY_4) &&
        !(size == ADDRESS_6 && value[1] == STUN_FAMILY_6))
        return 0;
    peer->family = size == ADDRESS_4 ? 4 : 6;
    peer->port = (uint16_t)(load16(value + 2) ^ load16(mask));
    for (uint32_t i = 0; i < size - 4; i++)
        peer->remote[i] = value[4 + i] ^ mask[i];
    return peer->port != 0;
}

/* Peer and payload of a message with one of each and nothing that could change what it means. */
static int read_send(uint8_t *message, uint32_t size, relay_key *peer, struct iovec *payload) {
    payload->iov_base = NULL;
    if (load16(message + 2) + STUN_HEADER != size || size % 4 != 0)
        return 0;
    for (uint32_t at = STUN_HEADER; at < size;) {
        uint32_t code = load16(message + at), length = load16(message + at + 2);
        uint8_t *value = message + at + STUN_ATTRIBUTE;
        if (length > size - at - STUN_ATTRIBUTE)
            return 0;
        if (code == STUN_DATA && payload->iov_base == NULL)
            *payload = (struct iovec){value, length};
        else if (code == STUN_XOR_PEER_ADDRESS && peer->family == 0) {
            if (!read_peer(message, value, length, peer))
                return 0;
        } else if (code == STUN_FINGERPRINT) {
            if (!stun_is_fingerprinted(message, at, size))
                return 0;
        } else if (code < STUN_OTHERS_OPTIONAL &&
                   !(code == STUN_SOFTWARE && stun_is_short_ascii(value, length)))
            return 0;
        at += STUN_ATTRIBUTE + stun_padded(length);
    }
    return peer->family != 0 && payload->iov_base != NULL;
}

static relay_client *find_client(relay_worker *w, const relay_key *from) {
    relay_indications *all = w->indications;
    if (memcmp(&all->last_from, from, sizeof(*from)) != 0) {
        relay_node *node = relay_table_find(&w->tables->clients, from);
        all->last_from = *from;
        all->last_client = node == NULL ? NULL : node->owner;
    }
    return all->last_client;
}

/* Of an address of our own, allocations can be sent to; its other ports are this host's. */
static int is_allowed(const relay_worker *w, const relay_permit *p, const relay_key *peer) {
    uint32_t place = (uint32_t)(peer->family == 6) << 16 | peer->port;
    return load_relaxed_u8(&p->any_port) ||
           load_acquire_pointer(&w->tables->sockets[place]) != NULL;
}

int relay_send(relay_worker *w, const relay_key *from, uint8_t *data, uint32_t size, uint8_t ecn) {
    relay_key peer = {0};
    struct iovec payload;
    if (load16(data) != SEND_INDICATION)
        return 0;
    relay_client *client = find_client(w, from);
    if (client == NULL || !read_send(data, size, &peer, &payload))
        return 0;
    peer.number = client->port;
    relay_permit *p = relay_permit_find(w->tables, &peer);
    if (p == NULL || p->client != client || !is_allowed(w, p, &peer))
        return 0;
    uint32_t length = (uint32_t)payload.iov_len;
    *append(w, p, &peer, length, length, ecn) = payload;
    w->carried = 1;
    return 1;
}

/* In: Data */

/* SplitMix64 (Steele, Lea, Flood 2014). */
static uint64_t next_random(relay_indications *all) {
    uint64_t z = all->random += 0x9E3779B97F4A7C15;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
    z = (z ^ z >> 27) * 0x94D049BB133111EB;
    return z ^ z >> 31;
}

static void put_framing(relay_indications *all, uint8_t *to, const relay_key *peer,
                        uint32_t framing, uint32_t size) {
    uint64_t random[2] = {next_random(all), next_random(all)};
    uint8_t *end = to + STUN_HEADER;
    store16(to, DATA_INDICATION);
    store16(to + 2, framing - STUN_HEADER + stun_padded(size));
    store32(to + 4, STUN_COOKIE);
    memcpy(to + STUN_TRANSACTION_ID, random, STUN_HEADER - STUN_TRANSACTION_ID);
    end = stun_put_address(end, STUN_XOR_PEER_ADDRESS, peer->family, peer->remote, peer->port, to);
    stun_begin(end, STUN_DATA, size);
}

void relay_data(relay_worker *w, relay_permit *p, const relay_key *peer, uint8_t *data,
                uint32_t size, uint8_t ecn) {
    static uint8_t zeros[4];
    relay_indications *all = w->indications;
    uint32_t framing = peer->family == 4 ? FRAMING_4 : FRAMING_6;
    uint32_t sent = framing + stun_padded(size);
    if (sent - STUN_HEADER > 0xFFFF) {
        relay_add(&all->too_long, 1);
        return;
    }
    if (all->framings == FRAMINGS)
        relay_indications_flush(w);
    struct iovec *v = append(w, p, peer, sent, size, ecn);
    uint8_t *head = all->framing[all->framings++];
    put_framing(all, head, peer, framing, size);
    v[0] = (struct iovec){head, framing};
    v[1] = (struct iovec){data, size};
    v[2] = (struct iovec){zeros, stun_padded(size) - size};
}

/* Out */

static void compose(const relay_worker *w, struct msghdr *m, uint8_t *control, const batch *b,
                    struct iovec *vectors) {
    const relay_client *c = b->permit->client;
    size_t used = 0;
    if (w->direction == RELAY_TO_CLIENT) {
        memcpy(control, c->source, c->source_size);
        used = c->source_size;
    }
    used += put_marks(control + used, &b->to, b->ecn, b->count, b->size);
    *m = (struct msghdr){
        .msg_name = (void *)&b->to.address,
        .msg_namelen = b->to.size,
        .msg_iov = vectors,
        .msg_iovlen = (size_t)b->count * vectors_each(w),
        .msg_control = used != 0 ? control : NULL,
        .msg_controllen = used,
    };
}

static void count_sent(relay_worker *w, const batch *b) {
    relay_counts *counts = &w->counts[w->direction];
    relay_add(&counts->packets, b->count);
    relay_add(&counts->bytes, b->payload);
    relay_add(&counts->sends, 1);
    relay_add(&w->indications->bytes, b->payload);
}

/* A batch that the kernel would not cut up, datagram by datagram. */
static void send_apart(relay_worker *w, const batch *whole, struct iovec *vectors) {
    uint8_t control[RELAY_CONTROL] __attribute__((aligned(8)));
    uint32_t each = vectors_each(w);
    batch one = *whole;
    one.count = 1;
    for (uint32_t i = 0; i < whole->count; i++, vectors += each) {
        struct msghdr message;
        one.payload = (uint32_t)vectors[each == 1 ? 0 : 1].iov_len;
        compose(w, &message, control, &one, vectors);
        if (sendmsg(sender(w, &one)->fd, &message, MSG_DONTWAIT) < 0)
            count_failed(w, w->direction, 1, errno);
        else
            count_sent(w, &one);
    }
}

/* As with channels: the path's MTU is held against this client and peer only. */
static void on_failure(relay_worker *w, const batch *b, struct iovec *vectors, int error) {
    int is_mtu = error == EINVAL || error == EMSGSIZE;
    if (b->count == 1 || !(is_mtu || error == EIO)) {
        count_failed(w, w->direction, b->count, error);
        return;
    }
    if (is_mtu) {
        store_relaxed_u32(&b->permit->too_large[w->direction], b->size);
    } else {
        store_relaxed_u8(&sender(w, b)->no_gso, 1);
        w->refused = error;
    }
    send_apart(w, b, vectors);
}

static void send_batches(relay_worker *w, int fd, uint32_t first, uint32_t end) {
    relay_indications *all = w->indications;
    for (uint32_t i = first; i < end; i++) {
        uint8_t *control = w->outgoing_control + (size_t)i * RELAY_CONTROL;
        compose(w, &w->outgoing[i].msg_hdr, control, &all->batch[i], all->vectors[i]);
    }
    while (first < end) {
        int sent = sendmmsg(fd, w->outgoing + first, end - first, MSG_DONTWAIT);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0) { /* the first one; the others have nothing to do with it */
            on_failure(w, &all->batch[first], all->vectors[first], errno);
            first++;
        }
        for (; sent > 0; sent--)
            count_sent(w, &all->batch[first++]);
    }
}

void relay_indications_flush(relay_worker *w) {
    relay_indications *all = w->indications;
    uint32_t last;
    for (uint32_t first = 0; first < all->batches; first = last) {
        int fd = sender(w, &all->batch[first])->fd;
        for (last = first + 1; last < all->batches; last++)
            if (sender(w, &all->batch[last])->fd != fd)
                break;
        send_batches(w, fd, first, last);
    }
    all->batches = all->framings = 0;
    all->last_from.family = 0; /* after the read, tables may change */
}

relay_indications *relay_indications_new(uint64_t seed) {
    relay_indications *all = calloc(1, sizeof(*all));
    if (all != NULL)
        all->random = seed;
    return all;
}

uint64_t relay_indicated_bytes(const relay_indications *all) {
    return load_relaxed_u64(&all->bytes);
}

uint64_t relay_too_long(const relay_indications *all) { return load_relaxed_u64(&all->too_long); }
