#define _GNU_SOURCE
#include "relay_send.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "relay_out.h"

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
        relay_flush(w);
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

void relay_append(relay_worker *w, relay_channel *c, uint8_t *data, uint32_t size, uint8_t ecn) {
    uint32_t sent = w->direction == RELAY_TO_CLIENT ? size + RELAY_HEADER : size;
    relay_run *r = last_run(w, c);
    if (r == NULL || !takes(w, r, sent, ecn))
        r = open_run(w, c, sent, ecn);
    struct iovec *v = vectors_of(w, r) + r->vectors;
    if (w->direction == RELAY_TO_CLIENT) {
        uint8_t *header = r->headers[sent != r->size];
        memcpy(header, c->header, 2);
        header[2] = (uint8_t)(size >> 8);
        header[3] = (uint8_t)size;
        *v++ = (struct iovec){header, RELAY_HEADER};
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

static void compose(const relay_worker *w, struct msghdr *m, uint8_t *control, const relay_run *r,
                    struct iovec *vectors) {
    const relay_channel *c = r->channel;
    const relay_name *to = destination(w, c);
    size_t used = 0;
    if (c->source_size[w->direction] != 0) {
        used = c->source_size[w->direction];
        memcpy(control, c->source[w->direction], used);
    }
    used += put_marks(control + used, to, r->ecn, r->count, r->size);
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
    relay_add(&counts->packets, r->count);
    relay_add(&counts->bytes, r->payload);
    relay_add(&counts->sends, 1);
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

void relay_flush(relay_worker *w) {
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

int relay_reply_to(relay_worker *w, const relay_socket *s, const relay_key *key,
                   const uint8_t *data, uint32_t size) {
    relay_reply *r = &w->reply[w->replies];
    relay_kind kind;
    uint32_t length =
        relay_answer(w->tables->answers, key, data, size, boottime_seconds(), r->data, &kind);
    if (length == 0)
        return 0;
    if (w->replies_left == 0) {
        relay_add(&w->unanswered, 1);
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
    relay_add(&w->answered[kind], 1);
    if (++w->replies == RELAY_REPLIES)
        relay_send_replies(w, s);
    return 1;
}

void relay_send_replies(relay_worker *w, const relay_socket *s) {
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

/* Channels */

void relay_channel_compose(relay_channel *c, const uint8_t *source) {
    const relay_key *client = &c->forward.key, *peer = &c->back.key;
    compose_name(&c->client, client->family, client->remote, client->port);
    compose_name(&c->peer, peer->family, peer->remote, peer->port);
    c->source_size[RELAY_TO_CLIENT] = (uint32_t)put_source(c->source[RELAY_TO_CLIENT], client);
    if (source != NULL) {
        relay_key own = {.family = peer->family};
        memcpy(own.local, source, sizeof(own.local));
        c->source_size[RELAY_TO_PEER] = (uint32_t)put_source(c->source[RELAY_TO_PEER], &own);
    }
    c->header[0] = (uint8_t)(client->number >> 8);
    c->header[1] = (uint8_t)client->number;
    c->forward.owner = c->back.owner = c;
    c->too_large[RELAY_TO_PEER] = c->too_large[RELAY_TO_CLIENT] = UINT32_MAX;
}
