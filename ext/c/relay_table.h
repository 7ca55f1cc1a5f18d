/* Hash tables of channels, with one writer and readers that hold no lock.
 *
 * Open addressing over pointers to nodes that their owners hold. The writer publishes with release
 * stores; what it takes out, a node or a whole array, goes to a list of retired blocks, which its
 * caller frees once no reader can hold them (epoch.pxd). Arrays grow and shrink with what is in
 * them. Clients choose peers, ports and numbers, so the hash is keyed. */
#ifndef FIREZONE_RELAY_TABLE_H
#define FIREZONE_RELAY_TABLE_H

#include <stdint.h>

/* The start of everything that is freed late. */
typedef struct relay_block {
    struct relay_block *next;
} relay_block;

/* Unused bytes are zero, so keys compare with memcmp. Five words for the hash. */
typedef struct relay_key {
    uint8_t remote[16]; /* IPv4 in the first four bytes, here and below */
    uint8_t local[16];
    uint16_t port;   /* remote's, host order */
    uint16_t number; /* of the channel, or the port of the allocation, or our listening one */
    uint8_t family;
    uint8_t pad[3];
} relay_key;

typedef struct relay_node {
    uint64_t hash;
    relay_key key;
    void *owner;
} relay_node;

typedef struct relay_array {
    relay_block block;
    uint32_t mask;
    uint32_t used; /* places that are not empty, deleted ones included */
    relay_node *places[];
} relay_array;

typedef struct relay_table {
    relay_array *array;
    uint32_t count;
    uint64_t secret[2];
} relay_table;

/* -1 without memory, here and below. */
int relay_table_init(relay_table *t, const uint64_t secret[2]);
void relay_table_free(relay_table *t);

/* Any thread. */
relay_node *relay_table_find(const relay_table *t, const relay_key *key);

/* The writer. The node's key is set and not in the table. */
int relay_table_insert(relay_table *t, relay_node *node, relay_block **retired);

/* The writer. Does nothing for a node that is not in the table. */
void relay_table_remove(relay_table *t, relay_node *node, relay_block **retired);

/* The writer: calls `visit` with every node. */
void relay_table_each(const relay_table *t, void (*visit)(relay_node *));

#endif
