#define _GNU_SOURCE
#include "relay_forward.h"

#include <errno.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "atomics.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

enum {
    HEADER = 4, /* of ChannelData: number and length (RFC 8656 section 12.4) */
    STUN_HEADER = 20,
    /* A datagram of any size fits. What is above 64 KiB shifts each buffer's start to other cache
     * sets than those of its neighbours. */
    STRIDE = 0x10000 + 17 * 64,
    LARGE = 4096, /* mean bytes of a read's buffers that were merged */
    MAX_V4 = 0xFFFF - 20 - 8,
    MAX_V6 = 0xFFFF - 40 - 8,
    ECN = 3
};

typedef struct {
    uint8_t *data;
    uint32_t size, stride; /* of the whole, and of each datagram but the last */
    uint8_t ecn;
} buffer;

static void receive_all(relay_worker *w, relay_socket *s, uint32_t count);
static void from_client(relay_worker *w, const relay_socket *s, const buffer *b,
                        const relay_key *key);
static void from_peer(relay_worker *w, const relay_socket *s, const buffer *b,
                      const relay_key *key);
static void append(relay_worker *w, relay_channel *c, uint8_t *data, uint32_t size, uint8_t ecn);
static void flush(relay_worker *w);
static int reply(relay_worker *w, const relay_socket *s, const relay_key *key, const uint8_t *data,
                 uint32_t size);
static void send_replies(relay_worker *w, const relay_socket *s);

static inline void add(uint64_t *counter, uint64_t amount) {
    store_relaxed_u64(counter, *counter + amount);
}

/* Buffers of one read. */
static inline uint32_t room(const relay_worker *w) {
    return w->merged ? RELAY_FEW_BUFFERS : RELAY_BUFFERS;
}

int relay_read(relay_worker *w, relay_socket *s) {
    int count = recvmmsg(s->fd, w->incoming, room(w), MSG_DONTWAIT, NULL);
    if (count < 0) {
        if (errno == EAGAIN || errno == EINTR)
            return 0;
        add(&w->receive_errors, 1);
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

static void read_control(struct msghdr *m, relay_key *key, buffer *b) {
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

static void receive_all(relay_worker *w, relay_socket *s, uint32_t count) {
    uint64_t bytes = 0;
    w->direction = s->listens ? RELAY_TO_PEER : RELAY_TO_CLIENT;
    w->last_key.family = 0;
    w->replies_left = w->carried && count == room(w) ? RELAY_FEW_REPLIES : UINT32_MAX;
    w->carried = s->listens ? 0 : w->carried;
    for (uint32_t i = 0; i < count; i++) {
        struct mmsghdr *m = &w->incoming[i];
        buffer b = {w->buffers[i].iov_base, m->msg_len, m->msg_len, 0};
        relay_key key = {.number = s->port};
        read_name(&w->names[i], &key);
        read_control(&m->msg_hdr, &key, &b);
        bytes += b.size;
        if (s->listens)
            from_client(w, s, &b, &key);
        else
            from_peer(w, s, &b, &key);
        expect(w, i);
    }
    flush(w);
    send_replies(w, s);
    if (count != 0)
        w->merged = bytes / count > LARGE;
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
static int is_permitted(const relay_worker *w, const relay_socket *s, const relay_key *key) {
    relay_key peer = *key;
    peer.port = 0;
    return load_relaxed_u32(&s->permits) != 0 && key->port != 0 &&
           relay_table_find(&w->tables->permits, &peer) != NULL;
}

static void from_peer(relay_worker *w, const relay_socket *s, const buffer *b,
                      const relay_key *key) {
    relay_key whole = *key;
    memset(whole.local, 0, sizeof(whole.local)); /* its port says enough */
    relay_channel *channel = find(w, &w->tables->back, &whole);
    int permitted = channel == NULL && is_permitted(w, s, &whole);
    uint32_t at = 0;
    do { /* an empty datagram is one, too */
        uint32_t size = b->size - at < b->stride ? b->size - at : b->stride;
        if (channel != NULL)
            append(w, channel, b->data + at, size, b->ecn);
        else if (permitted)
            w->control(w, &whole, b->data + at, size);
        else
            add(&w->counts[RELAY_TO_CLIENT].unbound, 1);
        at += size;
    } while (at < b->size);
}

/* RFC 8489 section 6.3, as far as one look goes. */
static int is_stun(const uint8_t *data, uint32_t size) {
    static const uint8_t cookie[4] = {0x21, 0x12, 0xA4, 0x42};
    return size >= STUN_HEADER && data[0] < 4 && memcmp(data + 4, cookie, 4) == 0;
}

static void from_client(relay_worker *w, const relay_socket *s, const buffer *b,
                        const relay_key *key) {
    relay_counts *counts = &w->counts[RELAY_TO_PEER];
    relay_key whole = *key;
    uint32_t size;
    if (b->size == 0)
        add(&w->no_protocol, 1);
    for (uint32_t at = 0; at < b->size; at += size) {
        uint8_t *data = b->data + at;
        size = b->size - at < b->stride ? b->size - at : b->stride;
        if (data[0] < 0x40 || data[0] >= 0x80) {
            if (!is_stun(data, size) || key->port == 0)
                add(&w->no_protocol, 1);
            else if (!reply(w, s, key, data, size))
                w->control(w, key, data, size);
            continue;
        }
        uint32_t length = size < HEADER ? size : (uint32_t)(data[2] << 8 | data[3]);
        if (length + HEADER > size) { /* more than that is padding */
            add(&counts->malformed, 1);
            continue;
        }
        whole.number = (uint16_t)(data[0] << 8 | data[1]);
        relay_channel *channel = find(w, &w->tables->forward, &whole);
        if (channel == NULL)
            add(&counts->unbound, 1);
        else
            append(w, channel, data + HEADER, length, b->ecn);
        w->carried |= channel != NULL;
    }
}

/* Runs */

static inline const relay_name *destination(const relay_worker *w, const relay_channel *c) {
    return w->direction == RELAY_TO_PEER ? &c->peer : &c->client;
}

static inline relay_socket *sender(const relay_worker *w, const relay_channel *c) {
    return w->direction == RELAY_TO_PEER ? c->relay : c->listener;
}

static int takes(const relay_worker *w, const relay_run *r, uint32_t size, uint8_t ecn) {
    uint32_t limit = sender(w, r->channel)->family == 4 ? MAX_V4 : MAX_V6;
    return !r->closed && r->count < RELAY_SEGMENTS && r->ecn == ecn && size != 0 &&
           size <= r->size && r->total + size <= limit;
}

static relay_run *open_run(relay_worker *w, relay_channel *c, uint32_t size, uint8_t ecn) {
    if (w->runs == RELAY_RUNS)
        flush(w);
    relay_run *r = &w->run[w->runs];
    *r = (relay_run){.channel = c, .size = size, .ecn = ecn};
    r->closed = !w->gso || load_relaxed_u8(&sender(w, c)->no_gso) || size == 0 ||
                size >= load_relaxed_u32(&c->too_large[w->direction]);
    store_relaxed_u32(&c->run[w->direction], w->runs++);
    return r;
}

/* The run that a channel's next datagram may join. */
static inline relay_run *last_run(const relay_worker *w, const relay_channel *c) {
    uint32_t run = load_relaxed_u32(&c->run[w->direction]);
    return run < w->runs && w->run[run].channel == c ? &w->run[run] : NULL;
}

static inline struct iovec *vectors_of(const relay_worker *w, const relay_run *r) {
    return w->vectors + (size_t)(r - w->run) * 2 * RELAY_SEGMENTS;
}

static void append(relay_worker *w, relay_channel *c, uint8_t *data, uint32_t size, uint8_t ecn) {
    uint32_t sent = w->direction == RELAY_TO_CLIENT ? size + HEADER : size;
    relay_run *r = last_run(w, c);
    if (r == NULL || !takes(w, r, sent, ecn))
        r = open_run(w, c, sent, ecn);
    struct iovec *v = vectors_of(w, r) + r->vectors;
    if (w->direction == RELAY_TO_CLIENT) {
        uint8_t *header = r->headers[sent != r->size];
        memcpy(header, c->header, 2);
        header[2] = (uint8_t)(size >> 8);
        header[3] = (uint8_t)size;
        *v++ = (struct iovec){header, HEADER};
        r->vectors++;
    }
    *v = (struct iovec){data, size};
    r->vectors++;
    r->count++;
    r->total += sent;
    r->payload += size;
    r->closed |= sent < r->size;
}

/* Out */

static size_t put(uint8_t *control, int level, int type, const void *data, size_t size) {
    struct cmsghdr *c = (struct cmsghdr *)control;
    memset(control, 0, CMSG_SPACE(size));
    c->cmsg_level = level;
    c->cmsg_type = type;
    c->cmsg_len = CMSG_LEN(size);
    memcpy(CMSG_DATA(c), data, size);
    return CMSG_SPACE(size);
}

/* The address that a client sends to, as the one that it is sent from. */
static size_t put_source(uint8_t *control, const relay_key *client) {
    struct in_pktinfo v4 = {0};
    struct in6_pktinfo v6 = {0};
    if (client->family == 4) {
        memcpy(&v4.ipi_spec_dst, client->local, 4);
        return put(control, IPPROTO_IP, IP_PKTINFO, &v4, sizeof(v4));
    }
    memcpy(&v6.ipi6_addr, client->local, 16);
    return put(control, IPPROTO_IPV6, IPV6_PKTINFO, &v6, sizeof(v6));
}

static void compose_name(relay_name *name, uint8_t family, const uint8_t *address, uint16_t port) {
    struct sockaddr_in *v4 = (struct sockaddr_in *)&name->address;
    memset(name, 0, sizeof(*name));
    if (family == 4) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        memcpy(&v4->sin_addr, address, 4);
        name->size = sizeof(*v4);
    } else {
        name->address.sin6_family = AF_INET6;
        name->address.sin6_port = htons(port);
        memcpy(&name->address.sin6_addr, address, 16);
        name->size = sizeof(name->address);
    }
}

static void compose(const relay_worker *w, struct msghdr *m, uint8_t *control, const relay_run *r,
                    struct iovec *vectors) {
    const relay_channel *c = r->channel;
    const relay_name *to = destination(w, c);
    size_t used = 0;
    int ecn = r->ecn;
    uint16_t size = (uint16_t)r->size;
    if (w->direction == RELAY_TO_CLIENT) {
        memcpy(control, c->source, c->source_size);
        used = c->source_size;
    }
    if (ecn != 0 && to->address.sin6_family == AF_INET)
        used += put(control + used, IPPROTO_IP, IP_TOS, &ecn, sizeof(ecn));
    else if (ecn != 0)
        used += put(control + used, IPPROTO_IPV6, IPV6_TCLASS, &ecn, sizeof(ecn));
    if (r->count > 1)
        used += put(control + used, SOL_UDP, UDP_SEGMENT, &size, sizeof(size));
    *m = (struct msghdr){
        .msg_name = (void *)&to->address,
        .msg_namelen = to->size,
        .msg_iov = vectors,
        .msg_iovlen = r->vectors,
        .msg_control = used != 0 ? control : NULL,
        .msg_controllen = used,
    };
}

static void count_sent(relay_worker *w, const relay_run *r) {
    relay_counts *counts = &w->counts[w->direction];
    add(&counts->packets, r->count);
    add(&counts->bytes, r->payload);
    add(&counts->sends, 1);
}

static void count_failed(relay_worker *w, int direction, uint32_t packets, int error) {
    error = error > 0 && error < RELAY_ERRNOS ? error : 0;
    add(&w->counts[direction].failed[error], packets);
}

/* A run that the kernel would not cut up, datagram by datagram. */
static void send_apart(relay_worker *w, const relay_run *whole) {
    uint8_t control[RELAY_CONTROL] __attribute__((aligned(8)));
    relay_run one = *whole;
    one.count = 1;
    one.vectors = whole->vectors / whole->count;
    for (uint32_t i = 0; i < whole->count; i++) {
        struct iovec *vectors = vectors_of(w, whole) + (size_t)i * one.vectors;
        struct msghdr message;
        one.payload = (uint32_t)vectors[one.vectors - 1].iov_len;
        compose(w, &message, control, &one, vectors);
        if (sendmsg(sender(w, one.channel)->fd, &message, MSG_DONTWAIT) < 0)
            count_failed(w, w->direction, 1, errno);
        else
            count_sent(w, &one);
    }
}

/* EINVAL and EMSGSIZE speak of the path's MTU, so they are held against this channel and size only:
 * else one client could end merging for all. EIO speaks of the device. */
static void on_failure(relay_worker *w, relay_run *r, int error) {
    int is_mtu = error == EINVAL || error == EMSGSIZE;
    if (r->count == 1 || !(is_mtu || error == EIO)) {
        count_failed(w, w->direction, r->count, error);
        return;
    }
    if (is_mtu) {
        store_relaxed_u32(&r->channel->too_large[w->direction], r->size);
    } else {
        store_relaxed_u8(&sender(w, r->channel)->no_gso, 1);
        w->refused = error;
    }
    send_apart(w, r);
}

static void send_runs(relay_worker *w, int fd, uint32_t first, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        relay_run *r = &w->run[first + i];
        uint8_t *control = w->outgoing_control + (size_t)i * RELAY_CONTROL;
        compose(w, &w->outgoing[i].msg_hdr, control, r, vectors_of(w, r));
    }
    for (uint32_t done = 0; done < count;) {
        int sent = sendmmsg(fd, w->outgoing + done, count - done, MSG_DONTWAIT);
        if (sent < 0) {
            if (errno == EINTR)
                continue;
            /* Only the first one failed; the others have nothing to do with it. */
            on_failure(w, &w->run[first + done], errno);
            done++;
            continue;
        }
        for (int i = 0; i < sent; i++)
            count_sent(w, &w->run[first + done + (uint32_t)i]);
        done += (uint32_t)sent;
    }
}

static void flush(relay_worker *w) {
    uint32_t last;
    for (uint32_t first = 0; first < w->runs; first = last) {
        int fd = sender(w, w->run[first].channel)->fd;
        for (last = first + 1; last < w->runs; last++)
            if (sender(w, w->run[last].channel)->fd != fd)
                break;
        send_runs(w, fd, first, last - first);
    }
    w->runs = 0;
}

/* Replies */

static uint64_t boottime_seconds(void) {
    struct timespec t = {0, 0};
    clock_gettime(CLOCK_BOOTTIME, &t);
    return (uint64_t)t.tv_sec;
}

/* Whether the request needs nothing of Python. A full read says that more waits: if that may be
 * data, a flood gets no more than a part of the time. */
static int reply(relay_worker *w, const relay_socket *s, const relay_key *key, const uint8_t *data,
                 uint32_t size) {
    relay_reply *r = &w->reply[w->replies];
    relay_kind kind;
    uint32_t length =
        relay_answer(w->tables->answers, key, data, size, boottime_seconds(), r->data, &kind);
    if (length == 0)
        return 0;
    if (w->replies_left == 0) {
        add(&w->unanswered, 1);
        return 1;
    }
    w->replies_left--;
    compose_name(&r->to, key->family, key->remote, key->port);
    r->payload = (struct iovec){r->data, length};
    w->replying[w->replies].msg_hdr = (struct msghdr){
        .msg_name = &r->to.address,
        .msg_namelen = r->to.size,
        .msg_iov = &r->payload,
        .msg_iovlen = 1,
        .msg_control = r->control,
        .msg_controllen = put_source(r->control, key),
    };
    add(&w->answered[kind], 1);
    if (++w->replies == RELAY_REPLIES)
        send_replies(w, s);
    return 1;
}

static void send_replies(relay_worker *w, const relay_socket *s) {
    for (uint32_t done = 0; done < w->replies;) {
        int sent = sendmmsg(s->fd, w->replying + done, w->replies - done, MSG_DONTWAIT);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0) { /* the first one */
            count_failed(w, RELAY_TO_CLIENT, 1, errno);
            sent = 1;
        }
        done += (uint32_t)sent;
    }
    w->replies = 0;
}

/* Channels and sockets */

void relay_channel_compose(relay_channel *c) {
    const relay_key *client = &c->forward.key, *peer = &c->back.key;
    compose_name(&c->client, client->family, client->remote, client->port);
    compose_name(&c->peer, peer->family, peer->remote, peer->port);
    c->source_size = (uint32_t)put_source(c->source, client);
    c->header[0] = (uint8_t)(client->number >> 8);
    c->header[1] = (uint8_t)client->number;
    c->forward.owner = c->back.owner = c;
    c->too_large[RELAY_TO_PEER] = c->too_large[RELAY_TO_CLIENT] = UINT32_MAX;
}

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
                   (t->answers = calloc(1, sizeof(*t->answers))) == NULL
               ? -1
               : 0;
}

void relay_tables_free(relay_tables *t) {
    relay_table_free(&t->forward);
    relay_table_free(&t->back);
    relay_table_free(&t->permits);
    if (t->answers != NULL)
        wipe(t->answers->nonce_key, sizeof(t->answers->nonce_key));
    free(t->answers);
}

int relay_worker_init(relay_worker *w, const relay_tables *tables) {
    memset(w, 0, sizeof(*w));
    w->tables = tables;
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
        !w->buffers || !w->names || !w->incoming_control || !w->reply || !w->replying || !w->arena)
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
}
