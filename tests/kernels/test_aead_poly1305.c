/* Every way our backends have to compute Poly1305, each by itself, with any key: through the cipher
 * the rare carries could not be reached. BACKEND is the source file of one. */
#include BACKEND

typedef void (*way)(struct poly_job *, unsigned at);

TARGET static void scalar(struct poly_job *j, unsigned at) { poly1305_scalar(j, at); }

#ifdef AVX512
TARGET static void in_lanes_256(struct poly_job *j, unsigned at) { poly_lanes_256(j, at & 4); }
TARGET static void in_lanes_512(struct poly_job *j, unsigned at) { (void)at; poly_lanes_512(j, 0); }
static const way WAYS[] = {scalar, poly_single_256, in_lanes_256, poly_single_512, in_lanes_512};
#else
TARGET static void in_lanes(struct poly_job *j, unsigned at) { (void)at; poly_lanes(j); }
static const way WAYS[] = {scalar, poly_single, in_lanes};
#endif

int ways(void) { return sizeof WAYS / sizeof *WAYS; }

/* The tag of text, zero-padded, and its length (RFC 8439 2.8); other lanes have shorter ones. */
void tag(int number, const u8 *key, const u8 *text, u32 length, unsigned lane, u8 *out)
{
    ALIGNED u8 keys[2][64] = {{0}};
    struct poly_job job;
    lane %= POLY_LANES;
    memcpy(keys[0], key, 32);
    for (unsigned i = 0; i < POLY_LANES; i++) {
        job.key[i] = keys[i != lane];
        job.text[i] = text;
        job.length[i] = i == lane ? length : length * i / LANES_MOST;
    }
    WAYS[number](&job, lane);
    store64(out, job.tag_low[lane]);
    store64(out + 8, job.tag_high[lane]);
}
