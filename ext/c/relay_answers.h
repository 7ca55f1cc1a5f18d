/* Answers to what strangers ask: Binding, and Allocate without credentials, which gets a 401 with a
 * nonce. They are byte for byte those of the relay in Python, which gets every request of which
 * that is not certain: attributes that change the answer, or that are wrong, or unknown and not to
 * be ignored. Nothing is remembered of who asked: a nonce is the time and a MAC (relay_auth.py). */
#ifndef FIREZONE_RELAY_ANSWERS_H
#define FIREZONE_RELAY_ANSWERS_H

#include <stdint.h>

#include "relay_table.h"

enum {
    RELAY_PROLOGUE = 1088, /* two attributes of the longest text, and what stands around them */
    RELAY_ANSWER = RELAY_PROLOGUE + 64,
    RELAY_NONCE_KEY = 32
};

/* Which of both an answer is. */
typedef enum { RELAY_NO_ANSWER, RELAY_BINDING, RELAY_CHALLENGE, RELAY_ANSWER_KINDS } relay_kind;

/* Header and attributes that are always the same. */
typedef struct relay_prologue {
    uint32_t size;
    uint8_t bytes[RELAY_PROLOGUE];
} relay_prologue;

typedef struct relay_answers {
    relay_prologue of[RELAY_ANSWER_KINDS];
    uint8_t nonce_key[RELAY_NONCE_KEY];
    uint8_t is_set;
    uint8_t deferred[2][1 << 16]; /* by family and the client's port: Python answers those */
} relay_answers;

/* The answer to one datagram from `from`, whose number is the port it was sent to, `seconds` after
 * the relay's epoch. What it is is told in `kind`; returns its size in `out`. */
uint32_t relay_answer(const relay_answers *a, const relay_key *from, const uint8_t *request,
                      uint32_t size, uint64_t seconds, uint8_t out[RELAY_ANSWER],
                      relay_kind *kind);

#endif
