#include "relay_table.h"

#include <stdlib.h>
#include <string.h>

#include "atomics.h"
#include "siphash.h"

enum { SMALLEST = 64, WORDS = sizeof(relay_key) / 8 };

_Static_assert(sizeof(relay_key) == 40, "keys are hashed by words");

static relay_node deleted; /* marks a place whose node is gone: look further */

static uint64_t hash_of(const relay_table *t, const relay_key *key) {
    uint64_t words[WORDS];
    memcpy(words, key, sizeof(words));
    return siphash13(t->secret[0], t->secret[1], words, WORDS);
}

static relay_array *array_new(uint32_t capacity) {
    relay_array *array = calloc(1, sizeof(relay_array) + capacity * sizeof(relay_node *));
    if (array != NULL)
        array->mask = capacity - 1;
    return array;
}

int relay_table_init(relay_table *t, const uint64_t secret[2]) {
    memset(t, 0, sizeof(*t));
    memcpy(t->secret, secret, sizeof(t->secret));
    t->array = array_new(SMALLEST);
    return t->array == NULL ? -1 : 0;
}

void relay_table_free(relay_table *t) {
    free(t->array);
    t->array = NULL;
}

relay_node *relay_table_find(const relay_table *t, const relay_key *key) {
    uint64_t hash = hash_of(t, key);
    const relay_array *array = load_acquire_pointer(&t->array);
    for (uint32_t place = (uint32_t)hash;; place++) {
        relay_node *node = load_acquire_pointer(&array->places[place & array->mask]);
        if (node == NULL)
            return NULL;
        if (node->hash == hash && memcmp(&node->key, key, sizeof(*key)) == 0 && node != &deleted)
            return node;
    }
}

/* Puts a node into the first place that holds none. */
static void place_node(relay_array *array, relay_node *node) {
    uint32_t place = (uint32_t)node->hash & array->mask;
    while (array->places[place] != NULL && array->places[place] != &deleted)
        place = (place + 1) & array->mask;
    array->used += array->places[place] == NULL;
    store_release_pointer(&array->places[place], node);
}

/* Moves everything to an array of a capacity that suits the count, at most half full. */
static int rebuild(relay_table *t, uint32_t count, relay_block **retired) {
    relay_array *old = t->array;
    uint32_t capacity = SMALLEST;
    while (capacity < 2 * (uint64_t)count)
        capacity *= 2;
    relay_array *fresh = array_new(capacity);
    if (fresh == NULL)
        return -1;
    for (uint32_t i = 0; i <= old->mask; i++)
        if (old->places[i] != NULL && old->places[i] != &deleted)
            place_node(fresh, old->places[i]);
    store_release_pointer(&t->array, fresh);
    old->block.next = *retired;
    *retired = &old->block;
    return 0;
}

int relay_table_insert(relay_table *t, relay_node *node, relay_block **retired) {
    node->hash = hash_of(t, &node->key);
    if ((uint64_t)(t->array->used + 1) * 4 > (uint64_t)(t->array->mask + 1) * 3 &&
        rebuild(t, t->count + 1, retired) < 0)
        return -1;
    place_node(t->array, node);
    t->count++;
    return 0;
}

void relay_table_remove(relay_table *t, relay_node *node, relay_block **retired) {
    relay_array *array = t->array;
    uint32_t place = (uint32_t)node->hash & array->mask;
    while (array->places[place] != node) {
        if (array->places[place] == NULL)
            return;
        place = (place + 1) & array->mask;
    }
    store_release_pointer(&array->places[place], &deleted);
    t->count--;
    if (array->mask >= SMALLEST && (uint64_t)t->count * 8 < array->mask)
        rebuild(t, t->count, retired); /* without memory for less of it, it stays as large */
}

void relay_table_each(const relay_table *t, void (*visit)(relay_node *)) {
    for (uint32_t i = 0; t->array != NULL && i <= t->array->mask; i++)
        if (t->array->places[i] != NULL && t->array->places[i] != &deleted)
            visit(t->array->places[i]);
}
