/* What all that leaves the relay has in common: names, ancillary data, counts. */
#ifndef FIREZONE_RELAY_OUT_H
#define FIREZONE_RELAY_OUT_H

#include <netinet/udp.h>
#include <string.h>

#include "relay_send.h"

enum { MAX_V4 = 0xFFFF - 20 - 8, MAX_V6 = 0xFFFF - 40 - 8 /* bytes of a message out */ };

static inline void count_failed(relay_worker *w, int direction, uint32_t packets, int error) {
    error = error > 0 && error < RELAY_ERRNOS ? error : 0;
    relay_add(&w->counts[direction].failed[error], packets);
}

static inline size_t put(uint8_t *control, int level, int type, const void *data, size_t size) {
    struct cmsghdr *c = (struct cmsghdr *)control;
    memset(control, 0, CMSG_SPACE(size));
    c->cmsg_level = level;
    c->cmsg_type = type;
    c->cmsg_len = CMSG_LEN(size);
    memcpy(CMSG_DATA(c), data, size);
    return CMSG_SPACE(size);
}

/* The address that a client sends to, as the one that it is sent from. */
static inline size_t put_source(uint8_t *control, const relay_key *client) {
    struct in_pktinfo v4 = {0};
    struct in6_pktinfo v6 = {0};
    if (client->family == 4) {
        memcpy(&v4.ipi_spec_dst, client->local, 4);
        return put(control, IPPROTO_IP, IP_PKTINFO, &v4, sizeof(v4));
    }
    memcpy(&v6.ipi6_addr, client->local, 16);
    return put(control, IPPROTO_IPV6, IPV6_PKTINFO, &v6, sizeof(v6));
}

/* ECN towards that name, and the size of the datagrams to make of it, if there are several. */
static inline size_t put_marks(uint8_t *control, const relay_name *to, int ecn, uint32_t count,
                               uint32_t size) {
    size_t used = 0;
    uint16_t segment = (uint16_t)size;
    if (ecn != 0 && to->address.sin6_family == AF_INET)
        used += put(control, IPPROTO_IP, IP_TOS, &ecn, sizeof(ecn));
    else if (ecn != 0)
        used += put(control, IPPROTO_IPV6, IPV6_TCLASS, &ecn, sizeof(ecn));
    if (count > 1)
        used += put(control + used, SOL_UDP, UDP_SEGMENT, &segment, sizeof(segment));
    return used;
}

static inline void compose_name(relay_name *name, uint8_t family, const uint8_t *address,
                                uint16_t port) {
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

#endif
