/* Moves ChannelData between clients and peers: one read, and all that comes of it.
 *
 * A read takes many buffers from one socket; a buffer that the kernel merged (UDP_GRO) holds many
 * datagrams of one sender. Datagrams of one channel are gathered into a run, also across buffers
 * and past those of other channels, as long as they have the same size; a shorter one ends it. A
 * run leaves as one message that the kernel cuts up again (UDP_SEGMENT). Its vectors point into the
 * receive buffers: they skip the ChannelData headers, or interleave them. Nothing is copied here,
 * nothing is kept between reads, and nothing waits: what cannot be sent at once is dropped. */
#ifndef FIREZONE_RELAY_FORWARD_H
#define FIREZONE_RELAY_FORWARD_H

#include <netinet/in.h>
#include <stdint.h>
#include <sys/socket.h>

#include "relay_answers.h"
#include "relay_table.h"

enum {
    RELAY_TO_PEER,
    RELAY_TO_CLIENT,
    RELAY_BUFFERS = 128,     /* of one read */
    RELAY_FEW_BUFFERS = 16,  /* when they come merged: these stay in the cache */
    RELAY_RUNS = 256,
    RELAY_SEGMENTS = 64,     /* of a run: UDP_MAX_SEGMENTS of all kernels */
    RELAY_CONTROL = 128,     /* bytes of ancillary data per message */
    RELAY_REPLIES = 64,      /* that leave together */
    RELAY_FEW_REPLIES = 32,  /* of one read, where data waits behind them */
    RELAY_ERRNOS = 136
};

/* A listening socket, or that of an allocation in one family. */
typedef struct relay_socket {
    relay_block block;
    int fd;
    uint16_t port;     /* bound to, host order */
    uint8_t family;
    uint8_t listens;
    uint8_t worker;    /* that reads it */
    uint8_t no_gso;    /* workers: the host refused it here */
    uint32_t channels; /* writer */
    uint32_t permits;  /* writer: addresses whose data goes to the client without a channel */
    uint8_t shared;    /* with one port: it is that of all allocations, too */
    uint8_t own[16];   /* then the relayed address of all */
} relay_socket;

typedef struct relay_name {
    struct sockaddr_in6 address; /* large enough for both families */
    socklen_t size;
} relay_name;

typedef struct relay_channel {
    relay_block block;
    relay_node forward; /* by client and number */
    relay_node back;    /* by allocation and peer */
    relay_socket *listener, *relay;
    relay_name client, peer;
    uint8_t source[2][40]; /* ancillary data by direction: what it is sent from, if that is told */
    uint32_t source_size[2];
    uint8_t header[2];  /* the number, as sent */
    uint8_t shared;     /* both sockets are listening ones */
    uint32_t steers;    /* writer */
    /* Workers, by direction: sizes from here on go unmerged, past the MTU; and the run that was
     * opened last, which counts only if that run still says the same. */
    uint32_t too_large[2], run[2];
} relay_channel;

/* With one port: for whom is what a peer sends that bears a certain index, or none that is known. */
typedef struct relay_steer {
    relay_block block;
    relay_node node;        /* by peer and index */
    relay_channel *channel; /* NULL: there are several, and no telling */
} relay_steer;

typedef struct relay_counts {
    uint64_t packets;
    uint64_t bytes; /* payload */
    uint64_t sends; /* messages to the kernel */
    uint64_t unbound;
    uint64_t malformed;
    uint64_t failed[RELAY_ERRNOS]; /* datagrams not sent, by errno */
} relay_counts;

typedef struct relay_run {
    relay_channel *channel;
    uint32_t size;  /* of its datagrams as sent, but that the last may be shorter */
    uint32_t count, total, payload, vectors;
    uint8_t ecn, closed;
    uint8_t headers[2][4]; /* of datagrams of that size, and of the shorter one */
} relay_run;

/* Answers to strangers that wait to be sent, from the socket that the requests came to. */
typedef struct relay_reply {
    relay_name to;
    struct iovec payload;
    uint8_t control[40]; /* the address that was asked */
    uint8_t data[RELAY_ANSWER];
} relay_reply;

typedef struct relay_worker relay_worker;

/* A STUN message on a listening socket that needs Python. The key has its addresses. */
typedef void (*relay_control)(relay_worker *w, const relay_key *from, const uint8_t *data,
                              uint32_t size);

/* What all workers read and one other thread writes. */
typedef struct relay_tables {
    relay_table forward, back, permits, clients, steers;
    relay_answers *answers;
    relay_socket **sockets; /* of allocations, by IPv6 or not and port: 2 * 65536 of them */
} relay_tables;

/* A thread's own. Nothing in it is shared but the counts, which others may read. */
struct relay_worker {
    const relay_tables *tables;
    relay_control control;
    void *context; /* of `control` */
    int gso;       /* whether to merge what is sent */
    int refused;   /* errno with which the host refused to merge, until the caller clears it */
    int merged;    /* the last read had large buffers */
    int direction;
    relay_counts counts[2];
    uint64_t ambiguous;   /* from peers of several clients, for whom? */
    uint64_t disguised;   /* to clients as peers, and would pass for ours */
    uint64_t no_protocol; /* from clients, neither STUN nor ChannelData */
    uint64_t receive_errors;
    uint64_t answered[RELAY_ANSWER_KINDS];
    uint64_t unanswered; /* strangers' requests that were more than there was time for */

    uint32_t late; /* buffers of a listening socket that hold data of peers */
    uint8_t later[RELAY_BUFFERS];
    uint32_t replies, replies_left; /* that wait, and that this read may still give */
    int carried;                    /* clients' last read had data of channels */
    relay_reply *reply;
    struct mmsghdr *replying;
    relay_key last_key; /* of this read's last lookup */
    relay_channel *last_channel;
    struct relay_indications *indications;
    uint32_t runs;
    relay_run *run;
    struct iovec *vectors; /* two for each segment of each run */
    uint8_t *outgoing_control;
    struct mmsghdr *outgoing;
    struct mmsghdr *incoming;
    struct iovec *buffers;
    struct sockaddr_in6 *names;
    uint8_t *incoming_control;
    uint8_t *arena;
};

int relay_tables_init(relay_tables *t, const uint64_t secret[2]);
void relay_tables_free(relay_tables *t);

/* `number` tells it from the others. */
int relay_worker_init(relay_worker *w, const relay_tables *tables, uint32_t number);
void relay_worker_free(relay_worker *w);

/* Asks for all that the worker wants to know of what arrives. 0, or -errno. With `gro` > 0 UDP_GRO
 * is asked for, too, and set to 0 where the host has none. */
int relay_socket_prepare(const relay_socket *s, int *gro);

/* Whether the kernel knows UDP_SEGMENT. */
int relay_knows_gso(int fd);

/* Reads a socket once and forwards what came. Returns how many buffers, or -errno if the socket is
 * of no more use. */
int relay_read(relay_worker *w, relay_socket *s);

/* Fills in a channel whose keys and sockets are set. `source` is the address that peers see, where
 * its sockets are everybody's and have to be told. */
void relay_channel_compose(relay_channel *c, const uint8_t *source);

#endif
