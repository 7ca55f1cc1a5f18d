/* Throws Send and Data at the relay's C, over real sockets; run by test_relay_native.py under
 * sanitizers.
 *
 *   check ROUNDS   each of some datagrams, right ones, wrong ones and strangers', with permissions
 *                  that come and go
 *
 * Exit code 0: fine; 1: wrong. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "relay_indications.h"
#include "relay_out.h"
#include "stun.h"

#define CHECK(what) do { if (!(what)) { printf("not so: %s\n", #what); exit(1); } } while (0)

enum { PEERS = 3, MOST = 3000, ROOM = 0x10000 };

typedef struct { int fd; struct sockaddr_in at; } end;

static uint64_t handed_over, forwarded, delivered;
static relay_block *retired;

static uint32_t draw(uint32_t below) { return (uint32_t)random() % below; }

static void on_control(relay_worker *w, const relay_key *from, const uint8_t *data, uint32_t size)
{
    (void)w; (void)from;
    CHECK(size >= STUN_HEADER && data[0] < 4);
    handed_over++;
}

static end open_end(void)
{
    end e = {socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), {.sin_family = AF_INET}};
    socklen_t size = sizeof(e.at);
    e.at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(bind(e.fd, (struct sockaddr *)&e.at, size) == 0);
    CHECK(getsockname(e.fd, (struct sockaddr *)&e.at, &size) == 0);
    return e;
}

static relay_socket *open_socket(const end *e, int listens)
{
    relay_socket *s = calloc(1, sizeof(*s));
    int gro = 1;
    s->fd = e->fd;
    s->family = 4;
    s->port = ntohs(e->at.sin_port);
    s->listens = (uint8_t)listens;
    CHECK(relay_socket_prepare(s, &gro) == 0);
    return s;
}

static relay_key key_of(const end *e, const end *local, uint16_t number)
{
    relay_key key = {.family = 4, .port = ntohs(e->at.sin_port), .number = number};
    memcpy(key.remote, &e->at.sin_addr, 4);
    if (local != NULL)
        memcpy(key.local, &local->at.sin_addr, 4);
    return key;
}

/* A Send to a peer; one in two has something that is out of the ordinary. */
static uint32_t make_send(uint8_t *to, const relay_key *peer)
{
    uint32_t size = draw(4) ? draw(200) : draw(MOST);
    uint8_t *at = to + STUN_HEADER;
    store16(to, 0x0016);
    store32(to + 4, STUN_COOKIE);
    for (int i = STUN_TRANSACTION_ID; i < STUN_HEADER; i++)
        to[i] = (uint8_t)random();
    at = stun_put_address(at, STUN_XOR_PEER_ADDRESS, 4, peer->remote, peer->port, to);
    if (draw(8) == 0)
        at = stun_begin(at, draw(2) ? 0xC057 : draw(0x10000), 0);
    at = stun_begin(at, STUN_DATA, size) + stun_padded(size);
    store16(to + 2, (uint32_t)(at - to) - STUN_HEADER);
    if (draw(3) == 0) {
        store16(to + 2, (uint32_t)(at - to) - STUN_HEADER + 8);
        uint32_t value = stun_fingerprint(to, (uint32_t)(at - to));
        at = stun_begin(at, STUN_FINGERPRINT, 4);
        store32(at, value);
        at += 4;
    }
    size = (uint32_t)(at - to);
    if (draw(4) == 0)
        to[draw(size < 64 ? size : 64)] ^= (uint8_t)(1 << draw(8));
    if (draw(8) == 0)
        size -= draw(size);
    return size;
}

static void drain(const end *e, int is_client)
{
    static uint8_t data[ROOM];
    ssize_t size;
    while ((size = recv(e->fd, data, sizeof(data), 0)) >= 0) {
        forwarded += !is_client;
        if (!is_client)
            continue;
        delivered++;
        CHECK(load16(data) == 0x0017 && load16(data + 2) + STUN_HEADER == size && size % 4 == 0);
        CHECK(load16(data + 32) == STUN_DATA);
        CHECK(36 + stun_padded(load16(data + 34)) == size);
    }
}

static void free_retired(void)
{
    while (retired != NULL) {
        relay_block *next = retired->next;
        free(retired);
        retired = next;
    }
}

static void forget(relay_node *node) { free(node->owner); }

int main(int count, char **words)
{
    static relay_worker w;
    static relay_tables tables;
    relay_socket **sockets = calloc(2 << 16, sizeof(*sockets));
    const uint64_t secret[2] = {1, 2};
    end listener = open_end(), relay = open_end(), client = open_end(), peers[PEERS];
    relay_socket *listens = open_socket(&listener, 1), *relays = open_socket(&relay, 0);
    relay_key who = key_of(&client, &listener, listens->port), whom[PEERS];
    uint8_t *data = malloc(ROOM);
    memset(data, 0, ROOM);
    CHECK(relay_tables_init(&tables, secret) == 0 && relay_worker_init(&w, &tables, 0) == 0);
    tables.sockets = sockets;
    w.control = on_control;
    w.gso = 1;
    for (int i = 0; i < PEERS; i++) {
        peers[i] = open_end();
        whom[i] = key_of(&peers[i], NULL, relays->port);
        whom[i].port = 0;
    }
    for (int round = count > 1 ? atoi(words[1]) : 0; round > 0; round--) {
        relay_key address = whom[0];
        if (draw(4) != 0)
            CHECK(relay_permit_add(&tables, &who, &address, listens, relays, draw(8) != 0,
                                   &retired) == 0);
        else
            relay_permit_remove(&tables, &address, &retired);
        free_retired();
        sockets[ntohs(peers[0].at.sin_port)] = draw(2) ? relays : NULL;
        for (uint32_t left = draw(200); left > 0; left--) {
            const end *peer = &peers[draw(PEERS)];
            relay_key to = key_of(peer, NULL, 0);
            uint32_t size = make_send(data, &to);
            sendto(client.fd, data, size, 0, (struct sockaddr *)&listener.at, sizeof(listener.at));
            sendto(peer->fd, data, size, 0, (struct sockaddr *)&relay.at, sizeof(relay.at));
        }
        while (relay_read(&w, listens) > 0 || relay_read(&w, relays) > 0)
            for (int i = 0; i < PEERS; i++)
                drain(&peers[i], 0);
        drain(&client, 1);
    }
    CHECK(forwarded > 0 && delivered > 0 && handed_over > 0);
    relay_table_each(&tables.permits, forget);
    relay_table_each(&tables.clients, forget);
    free_retired();
    relay_worker_free(&w);
    relay_tables_free(&tables);
    free(sockets); free(listens); free(relays); free(data);
    return 0;
}
