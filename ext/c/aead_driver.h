/* The driver above the kernels: cuts a batch into chunks, queues ChaCha20's blocks across packets
 * and gives Poly1305 packets of like length together. Included by each backend's file, which has
 * defined TARGET and included its kernels.
 *
 * Sealing: one-time keys, text and tails in one queue, then the tags over what came out. Opening:
 * the keys, then the tags over what came in, then the text of authentic packets only: what does not
 * verify is never written. Keys, keystream and copies of plaintext are wiped at the end of a call,
 * with the part of the stack where the kernels' registers were spilled. */
#include "aead.h"
#include "aead_work.h"

enum {
    CHUNK = 64,            /* most packets in a chunk: the size of the buffers below */
    CHUNK_UNITS = 320,     /* blocks that close a chunk: 20 KB, so that Poly1305 finds them in L1 */
    SPILLS = 5120,         /* more than the deepest frames of the kernels */
};

typedef void (*poly_function)(struct poly_job *, unsigned count);

struct work {
    struct unit_queue queue;
    struct chacha_key key;
    ALIGNED u8 one_time[CHUNK][64];    /* keys of Poly1305 */
    ALIGNED u8 tail[CHUNK][64];        /* last blocks that are not full */
    ALIGNED u8 held[16][64];           /* opening: decrypted before the tag is known */
    ALIGNED u8 sink[64];
    u64 tag_low[CHUNK], tag_high[CHUNK];
};

/* Runs the kernels over whole vectors; with `all`, over the rest, too. */
TARGET static void flush(struct work *w, int all)
{
    struct unit_queue *q = &w->queue;
    unsigned at = 0, count = q->count;
    for (; count - at >= CHACHA_LANES; at += CHACHA_LANES)
        chacha20(&w->key, q, at, CHACHA_LANES);
    unsigned rest = count - at;
    if (all && rest) {
        for (unsigned i = count; i < at + CHACHA_LANES; i++) {
            q->block[i] = q->counter_low[i] = q->counter_high[i] = 0;
            q->key[i] = q->key[count - 1];
            q->src[i] = ZEROS;
            q->dst[i] = w->sink;
        }
        chacha20(&w->key, q, at, rest);
        rest = 0;
    }
    for (unsigned i = 0; i < rest; i++) {
        q->block[i] = q->block[at + i];
        q->counter_low[i] = q->counter_low[at + i];
        q->counter_high[i] = q->counter_high[at + i];
        q->key[i] = q->key[at + i];
        q->src[i] = q->src[at + i];
        q->dst[i] = q->dst[at + i];
    }
    q->count = rest;
}

TARGET INLINE void append(
    struct work *w, const aead_item *item, u32 block, const u8 *src, u8 *dst)
{
    struct unit_queue *q = &w->queue;
    if (q->count >= RUN_AT)
        flush(w, 0);
    unsigned n = q->count++;
    q->block[n] = block;
    q->counter_low[n] = (u32)item->counter;
    q->counter_high[n] = (u32)(item->counter >> 32);
    q->key[n] = item->key;
    q->src[n] = src;
    q->dst[n] = dst;
}

/* The full blocks of a packet from number `from` on. */
TARGET INLINE void append_text(struct work *w, const aead_item *item, u32 from)
{
    u32 blocks = item->length / 64;
    while (from < blocks) {
        unsigned count = blocks - from < 16 ? blocks - from : 16;
        const u8 *src = item->src + 64 * (size_t)from;
        u8 *dst = item->dst + 64 * (size_t)from;
        if (w->queue.count >= RUN_AT)
            flush(w, 0);
        append_run(&w->queue, item->key, item->counter, from + 1, src, dst, count);
        from += count;
    }
}

TARGET INLINE void append_tail(struct work *w, const aead_item *item, u8 *slot)
{
    u32 full = item->length / 64;
    if (item->length % 64 == 0)
        return;
    tail_in(slot, item->src + 64 * (size_t)full, item->length % 64);
    append(w, item, full + 1, slot, slot);
}

TARGET INLINE void release_tail(const aead_item *item, const u8 *slot)
{
    if (item->length % 64)
        tail_out(item->dst + (item->length & ~63u), slot, item->length % 64);
}

INLINE unsigned length_class(u32 length)
{
    unsigned c = (length + 31) / 64;
    return c > 63 ? 0 : 63 - c;        /* longest first */
}

/* Counting sort, so that packets of like length share Poly1305's lanes. */
static void sort_by_length(u8 order[CHUNK], const aead_item *items, unsigned count)
{
    u8 before[65] = {0};
    for (unsigned i = 0; i < count; i++)
        before[length_class(items[i].length) + 1]++;
    for (unsigned c = 0; c < 64; c++)
        before[c + 1] = (u8)(before[c + 1] + before[c]);
    for (unsigned i = 0; i < count; i++)
        order[before[length_class(items[i].length)]++] = (u8)i;
}

/* The tags of a chunk, over src when opening, over dst when sealing. */
TARGET static void compute_tags(
    struct work *w, const aead_item *items, unsigned count, int opening, poly_function poly)
{
    u8 order[CHUNK];
    unsigned alike = 1;
    for (unsigned i = 0; i < count; i++) {
        order[i] = (u8)i;
        alike &= length_class(items[i].length) == length_class(items[0].length);
    }
    if (!alike && count > POLY_LANES)
        sort_by_length(order, items, count);
    for (unsigned at = 0; at < count; at += POLY_LANES) {
        struct poly_job job;
        unsigned some = count - at < POLY_LANES ? count - at : POLY_LANES;
        for (unsigned i = 0; i < POLY_LANES; i++) {
            unsigned x = i < some ? order[at + i] : 0;
            job.text[i] = i < some ? (opening ? items[x].src : items[x].dst) : ZEROS;
            job.key[i] = i < some ? w->one_time[x] : ZEROS;
            job.length[i] = i < some ? items[x].length : 0;
        }
        poly(&job, some);
        for (unsigned i = 0; i < some; i++) {
            w->tag_low[order[at + i]] = job.tag_low[i];
            w->tag_high[order[at + i]] = job.tag_high[i];
        }
    }
}

TARGET static void seal_chunk(
    struct work *w, const aead_item *items, unsigned count, poly_function poly)
{
    for (unsigned i = 0; i < count; i++) append(w, &items[i], 0, ZEROS, w->one_time[i]);
    for (unsigned i = 0; i < count; i++) append_text(w, &items[i], 0);
    for (unsigned i = 0; i < count; i++) append_tail(w, &items[i], w->tail[i]);
    flush(w, 1);
    for (unsigned i = 0; i < count; i++) release_tail(&items[i], w->tail[i]);
    compute_tags(w, items, count, 0, poly);
    for (unsigned i = 0; i < count; i++) {
        store64(items[i].dst + items[i].length, w->tag_low[i]);
        store64(items[i].dst + items[i].length + 8, w->tag_high[i]);
    }
}

/* How far the held blocks reach: all of the packets before `packet`, of that one those before
 * `block`. */
struct reach { unsigned packet, block, held; };

/* Queues the one-time keys. What is left of their last vector decrypts the first blocks of text,
 * into `held`, as nothing may reach a packet's dst before its tag is known to be right. */
TARGET static struct reach append_keys(struct work *w, const aead_item *items, unsigned count)
{
    struct reach r = {0, 0, 0};
    for (unsigned i = 0; i < count; i++) append(w, &items[i], 0, ZEROS, w->one_time[i]);
    while (w->queue.count % CHACHA_LANES && r.packet < count) {
        const aead_item *item = &items[r.packet];
        unsigned full = item->length / 64, whole = r.block < full;
        if (64 * r.block >= item->length) {
            r.packet++;
            r.block = 0;
            continue;
        }
        const u8 *src = item->src + 64 * (size_t)r.block;
        if (!whole)
            tail_in(w->tail[r.packet], src, item->length % 64);
        append(w, item, r.block + 1, whole ? src : w->tail[r.packet], w->held[r.held++]);
        r.block++;
    }
    return r;
}

TARGET static void release_held(
    struct work *w, const aead_item *items, unsigned count, struct reach r)
{
    unsigned h = 0;
    for (unsigned i = 0; i < count && i <= r.packet; i++) {
        unsigned blocks = i < r.packet ? (items[i].length + 63) / 64 : r.block;
        for (unsigned b = 0; b < blocks; b++, h++) {
            if (!items[i].ok)
                continue;
            if (b < items[i].length / 64)
                memcpy(items[i].dst + 64 * (size_t)b, w->held[h], 64);
            else
                release_tail(&items[i], w->held[h]);
        }
    }
}

TARGET static void open_chunk(
    struct work *w, aead_item *items, unsigned count, poly_function poly)
{
    struct reach r = append_keys(w, items, count);
    flush(w, 1);
    compute_tags(w, items, count, 1, poly);
    for (unsigned i = 0; i < count; i++) {
        const u8 *tag = items[i].src + items[i].length;
        u64 differ = (load64(tag) ^ w->tag_low[i]) | (load64(tag + 8) ^ w->tag_high[i]);
        items[i].ok = (u32)(1 ^ ((differ | (0 - differ)) >> 63));
        PUBLIC(items[i].ok);
    }
    release_held(w, items, count, r);
    for (unsigned i = r.packet; i < count; i++)
        if (items[i].ok)
            append_text(w, &items[i], i == r.packet ? r.block : 0);
    for (unsigned i = r.packet; i < count; i++)
        if (items[i].ok && (i > r.packet || r.block <= items[i].length / 64))
            append_tail(w, &items[i], w->tail[i]);
    flush(w, 1);
    for (unsigned i = r.packet; i < count; i++)
        if (items[i].ok && (i > r.packet || r.block <= items[i].length / 64))
            release_tail(&items[i], w->tail[i]);
}

/* Packets of the next chunk: a multiple of 16 where possible, so that keys and tails fill lanes. */
static unsigned chunk_length(const aead_item *items, size_t count)
{
    unsigned n = 0, units = 0;
    while (n < count && n < CHUNK && (units < CHUNK_UNITS || n % 16))
        units += items[n++].length / 64 + 1;
    return n;
}

/* Where the kernels' frames were. Written out, as a call of memset costs more. */
TARGET NOINLINE void wipe_spills(void)
{
    typedef u64 line __attribute__((vector_size(64)));
    ALIGNED line stack[SPILLS / 64];
    for (unsigned i = 0; i < SPILLS / 64; i += 4) {
        stack[i] = stack[i + 1] = stack[i + 2] = stack[i + 3] = (line){0};
        __asm__ volatile("" : : "r"(stack) : "memory");
    }
    _mm256_zeroall();
}

TARGET INLINE void run(aead_item *items, size_t count, int opening, poly_function poly)
{
    struct work w;
    unsigned most = 0;
    if (count == 0)
        return;
    w.queue.count = 0;
    w.key.of = NULL;
    while (count) {
        unsigned n = chunk_length(items, count);
        if (opening)
            open_chunk(&w, items, n, poly);
        else
            seal_chunk(&w, items, n, poly);
        if (n > most)
            most = n;
        items += n;
        count -= n;
    }
    wipe_memory(&w.key, sizeof w.key);
    wipe_memory(w.one_time, most * sizeof w.one_time[0]);
    wipe_memory(w.tail, most * sizeof w.tail[0]);
    if (opening)
        wipe_memory(w.held, CHACHA_LANES * sizeof w.held[0]);
    wipe_memory(w.sink, sizeof w.sink);
    wipe_spills();
}
