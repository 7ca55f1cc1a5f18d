#define _GNU_SOURCE
#include "relay_forward.h"

#include <errno.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>

#include "relay_indications.h"
#include "relay_one_port.h"
#include "relay_send.h"
#include "siphash.h"
#include "stun.h"

enum {
    /* A datagram of any size fits. What is above 64 KiB shifts each buffer's start to other cache
     * sets than those of its neighbours. */
    STRIDE = 0x10000 + 17 * 64,
    LARGE = 4096, /* mean bytes of a read's buffers that were merged */
    ECN = 3
};

static void receive_all(relay_worker *w, relay_socket *s, uint32_t count);
static void receive_late(relay_worker *w, relay_socket *s);
static int from_client(relay_worker *w, const relay_socket *s, const relay_buffer *b,
                       const relay_key *key);
static void from_peer(relay_worker *w, const relay_socket *s, const relay_buffer *b,
                      const relay_key *key);

/* Buffers of one read. */
static inline uint32_t room(const relay_worker *w) {
    return w->merged ? RELAY_FEW_BUFFERS : RELAY_BUFFERS;
}

int relay_read(relay_worker *w, relay_socket *s) {
    int count = recvmmsg(s->fd, w->incoming, room(w), MSG_DONTWAIT, NULL);
    if (count < 0) {
        if (errno == EAGAIN || errno == EINTR)
            return 0;
        relay_add(&w->receive_errors, 1);
        /* Others are the network's or the memory's: reading has cleared them. */
        return errno == EBADF || errno == ENOTSOCK || errno == EINVAL ? -errno : 0;
    }
    receive_all(w, s, (uint32_t)count);
    return count;
}

/* In */

static void expect(relay_worker *w, uint32_t i) {
    struct msghdr *m = &w->incoming[i].msg_hdr;
    m->msg_name = &w->names[i];
    m->msg_namelen = sizeof(w->names[i]);
    m->msg_iov = &w->buffers[i];
    m->msg_iovlen = 1;
    m->msg_control = w->incoming_control + (size_t)i * RELAY_CONTROL;
    m->msg_controllen = RELAY_CONTROL;
    m->msg_flags = 0;
}

static void read_name(const struct sockaddr_in6 *name, relay_key *key) {
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)name;
    if (v4->sin_family == AF_INET) {
        key->family = 4;
        key->port = ntohs(v4->sin_port);
        memcpy(key->remote, &v4->sin_addr, 4);
    } else {
        key->family = 6;
        key->port = ntohs(name->sin6_port);
        memcpy(key->remote, &name->sin6_addr, 16);
    }
}

static void read_control(struct msghdr *m, relay_key *key, relay_buffer *b) {
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c != NULL; c = CMSG_NXTHDR(m, c)) {
        const uint8_t *data = CMSG_DATA(c);
        int value;
        if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
            memcpy(key->local, &((const struct in_pktinfo *)data)->ipi_addr, 4);
        } else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TOS) {
            b->ecn = data[0] & ECN;
        } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
            memcpy(key->local, &((const struct in6_pktinfo *)data)->ipi6_addr, 16);
        } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_TCLASS) {
            memcpy(&value, data, sizeof(value));
            b->ecn = value & ECN;
        } else if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO) {
            memcpy(&value, data, sizeof(value));
            b->stride = value > 0 ? (uint32_t)value : b->stride;
        }
    }
}

static relay_buffer parse(relay_worker *w, const relay_socket *s, uint32_t i, relay_key *key) {
    struct mmsghdr *m = &w->incoming[i];
    relay_buffer b = {w->buffers[i].iov_base, m->msg_len, m->msg_len, 0};
    *key = (relay_key){.number = s->port};
    read_name(&w->names[i], key);
    read_control(&m->msg_hdr, key, &b);
    return b;
}

static void receive_all(relay_worker *w, relay_socket *s, uint32_t count) {
    uint64_t bytes = 0;
    w->direction = s->listens ? RELAY_TO_PEER : RELAY_TO_CLIENT;
    w->last_key.family = 0;
    w->replies_left = w->carried && count == room(w) ? RELAY_FEW_REPLIES : UINT32_MAX;
    w->carried = s->listens ? 0 : w->carried;
    for (uint32_t i = 0; i < count; i++) {
        relay_key key;
        relay_buffer b = parse(w, s, i, &key);
        bytes += b.size;
        if (!s->listens)
            from_peer(w, s, &b, &key);
        else if (from_client(w, s, &b, &key)) {
            w->later[w->late++] = (uint8_t)i;
            continue;
        }
        expect(w, i);
    }
    relay_indications_flush(w); /* first: who binds a channel has sent these before */
    relay_flush(w);
    if (w->late != 0)
        receive_late(w, s);
    relay_send_replies(w, s);
    if (count != 0)
        w->merged = bytes / count > LARGE;
}

/* What clients did not send. Runs are of one direction, so it waits until all else has left. */
static void receive_late(relay_worker *w, relay_socket *s) {
    w->direction = RELAY_TO_CLIENT;
    w->last_key.family = 0;
    for (uint32_t i = 0; i < w->late; i++) {
        relay_key key;
        relay_buffer b = parse(w, s, w->later[i], &key);
        relay_from_peers(w, s, &b, &key);
        expect(w, w->later[i]);
    }
    w->late = 0;
    relay_flush(w);
}

/* The channel of a key, remembered for the datagrams that follow. */
static inline relay_channel *find(relay_worker *w, const relay_table *t, const relay_key *key) {
    if (memcmp(&w->last_key, key, sizeof(*key)) != 0) {
        relay_node *node = relay_table_find(t, key);
        w->last_key = *key;
        w->last_channel = node == NULL ? NULL : node->owner;
    }
    return w->last_channel;
}

/* Looked up only for who has no channel, and only where somebody has a permission at all. */
static relay_permit *permit_of(const relay_worker *w, const relay_socket *s,
                               const relay_key *key) {
    if (load_relaxed_u32(&s->permits) == 0 || key->port == 0)
        return NULL;
    return relay_permit_find(w->tables, key);
}

static void from_peer(relay_worker *w, const relay_socket *s, const relay_buffer *b,
                      const relay_key *key) {
    relay_key whole = *key;
    memset(whole.local, 0, sizeof(whole.local)); /* its port says enough */
    relay_channel *channel = find(w, &w->tables->back, &whole);
    relay_permit *permit = channel == NULL ? permit_of(w, s, &whole) : NULL;
    uint32_t at = 0;
    do { /* an empty datagram is one, too */
        uint32_t size = b->size - at < b->stride ? b->size - at : b->stride;
        if (channel != NULL)
            relay_append(w, channel, b->data + at, size, b->ecn);
        else if (permit != NULL)
            relay_data(w, permit, &whole, b->data + at, size, b->ecn);
        else
            relay_add(&w->counts[RELAY_TO_CLIENT].unbound, 1);
        at += size;
    } while (at < b->size);
}

/* Returns whether something in it is a peer's instead, as may be on a shared port. */
static int from_client(relay_worker *w, const relay_socket *s, const relay_buffer *b,
                       const relay_key *key) {
    relay_counts *counts = &w->counts[RELAY_TO_PEER];
    relay_key whole = *key;
    uint32_t size;
    int late = 0;
    if (s->shared && relay_is_own(s, key))
        return 1;
    if (b->size == 0)
        relay_add(&w->no_protocol, 1);
    for (uint32_t at = 0; at < b->size; at += size) {
        uint8_t *data = b->data + at;
        size = b->size - at < b->stride ? b->size - at : b->stride;
        if (data[0] < 0x40 || data[0] >= 0x80) {
            if (s->shared && relay_is_peers(w, key, data, size))
                late = 1;
            else if (!stun_is_message(data, size) || key->port == 0)
                relay_add(&w->no_protocol, 1);
            else if (!relay_send(w, key, data, size, b->ecn) &&
                     !relay_reply_to(w, s, key, data, size))
                w->control(w, key, data, size);
            continue;
        }
        uint32_t length = size < RELAY_HEADER ? size : (uint32_t)(data[2] << 8 | data[3]);
        if (length + RELAY_HEADER > size) { /* more than that is padding */
            if (s->shared && relay_is_peers(w, key, data, size))
                late = 1;
            else
                relay_add(&counts->malformed, 1);
            continue;
        }
        whole.number = (uint16_t)(data[0] << 8 | data[1]);
        relay_channel *channel = find(w, &w->tables->forward, &whole);
        if (channel == NULL && s->shared && relay_is_peers(w, key, data, size))
            late = 1;
        else if (channel == NULL)
            relay_add(&counts->unbound, 1);
        else if (channel->shared && relay_names_somebody(data + RELAY_HEADER, length))
            w->control(w, key, data, RELAY_HEADER + length);
        else if (channel->shared && relay_is_disguised(w, channel, data + RELAY_HEADER, length))
            relay_add(&w->disguised, 1);
        else
            relay_append(w, channel, data + RELAY_HEADER, length, b->ecn);
        w->carried |= channel != NULL;
    }
    return late;
}

/* Sockets and memory */

int relay_socket_prepare(const relay_socket *s, int *gro) {
    int on = 1, is_v4 = s->family == 4, failed;
    if (is_v4)
        failed = setsockopt(s->fd, IPPROTO_IP, IP_RECVTOS, &on, sizeof(on));
    else
        failed = setsockopt(s->fd, IPPROTO_IPV6, IPV6_RECVTCLASS, &on, sizeof(on));
    if (!failed && s->listens && is_v4)
        failed = setsockopt(s->fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof(on));
    else if (!failed && s->listens)
        failed = setsockopt(s->fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof(on));
    if (!failed && *gro && setsockopt(s->fd, SOL_UDP, UDP_GRO, &on, sizeof(on)) < 0)
        *gro = 0;
    return failed ? -errno : 0;
}

int relay_knows_gso(int fd) {
    int size = 0;
    socklen_t length = sizeof(size);
    return getsockopt(fd, SOL_UDP, UDP_SEGMENT, &size, &length) == 0;
}

int relay_tables_init(relay_tables *t, const uint64_t secret[2]) {
    memset(t, 0, sizeof(*t));
    return relay_table_init(&t->forward, secret) < 0 || relay_table_init(&t->back, secret) < 0 ||
                   relay_table_init(&t->permits, secret) < 0 ||
                   relay_table_init(&t->steers, secret) < 0 ||
                   relay_table_init(&t->clients, secret) < 0 ||
                   (t->answers = calloc(1, sizeof(*t->answers))) == NULL
               ? -1
               : 0;
}

void relay_tables_free(relay_tables *t) {
    relay_table_free(&t->forward);
    relay_table_free(&t->back);
    relay_table_free(&t->permits);
    relay_table_free(&t->steers);
    relay_table_free(&t->clients);
    if (t->answers != NULL)
        wipe(t->answers->nonce_key, sizeof(t->answers->nonce_key));
    free(t->answers);
}

int relay_worker_init(relay_worker *w, const relay_tables *tables, uint32_t number) {
    const uint64_t *secret = tables->permits.secret, words[2] = {number, 1};
    memset(w, 0, sizeof(*w));
    w->tables = tables;
    w->indications = relay_indications_new(siphash13(secret[0], secret[1], words, 2));
    w->run = calloc(RELAY_RUNS, sizeof(*w->run));
    w->vectors = calloc(RELAY_RUNS * 2 * RELAY_SEGMENTS, sizeof(*w->vectors));
    w->outgoing = calloc(RELAY_RUNS, sizeof(*w->outgoing));
    w->outgoing_control = calloc(RELAY_RUNS, RELAY_CONTROL);
    w->incoming = calloc(RELAY_BUFFERS, sizeof(*w->incoming));
    w->buffers = calloc(RELAY_BUFFERS, sizeof(*w->buffers));
    w->names = calloc(RELAY_BUFFERS, sizeof(*w->names));
    w->incoming_control = calloc(RELAY_BUFFERS, RELAY_CONTROL);
    w->reply = calloc(RELAY_REPLIES, sizeof(*w->reply));
    w->replying = calloc(RELAY_REPLIES, sizeof(*w->replying));
    w->arena = malloc((size_t)RELAY_BUFFERS * STRIDE);
    if (!w->run || !w->vectors || !w->outgoing || !w->outgoing_control || !w->incoming ||
        !w->buffers || !w->names || !w->incoming_control || !w->reply || !w->replying || !w->arena ||
        !w->indications)
        return -1;
    for (uint32_t i = 0; i < RELAY_BUFFERS; i++) {
        w->buffers[i] = (struct iovec){w->arena + (size_t)i * STRIDE, 0x10000};
        expect(w, i);
    }
    return 0;
}

void relay_worker_free(relay_worker *w) {
    free(w->run);
    free(w->vectors);
    free(w->outgoing);
    free(w->outgoing_control);
    free(w->incoming);
    free(w->buffers);
    free(w->names);
    free(w->incoming_control);
    free(w->reply);
    free(w->replying);
    free(w->arena);
    free(w->indications);
}
