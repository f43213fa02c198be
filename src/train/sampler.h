/* Which tokens a sample holds: a pure function of the seed and the sample's
 * global index, so that training can resume anywhere and reads the same on any
 * number of ranks.
 *
 * A corpus of N tokens gives `windows` = floor((N - 1) / seq) windows of
 * seq + 1 tokens that share only their edges. An epoch visits each once, in
 * pseudo-random order, all of them shifted by an offset of that epoch in
 * [0, (N - 1) mod seq], so that windows do not begin at the same tokens for
 * ever.
 *
 *   sample = epoch * windows + i,   begin = offset(epoch) + order(epoch, i) *
 *                                           seq
 *
 * Source: the order is a Feistel network (Luby & Rackoff 1988) whose round
 * function is Philox4x32-10 (Salmon et al. 2011), walked until it lands below
 * `windows` ("cycle walking", Black & Rogaway 2002). */
#ifndef TSR_TRAIN_SAMPLER_H
#define TSR_TRAIN_SAMPLER_H

#include "train/corpus.h"

typedef struct tsr_sampler {  /* immutable after init; thread-safe */
    const tsr_corpus *corpus; /* borrowed; outlives the sampler */
    int64_t seq;              /* tokens of a sample */
    int64_t windows;          /* samples of an epoch */
    int64_t spare;            /* largest offset */
    uint64_t seed;
    unsigned half_bits; /* of the Feistel network: 4^half_bits >= windows */
} tsr_sampler;

/* Errors: INVALID_ARGUMENT (seq < 1; a corpus shorter than one sequence: says
 * how many tokens there are and how many it takes). */
tsr_status tsr_sampler_init(tsr_sampler *out_sampler, const tsr_corpus *corpus,
                            int64_t seq, uint64_t seed);

/* Where the sample begins in the corpus. sample >= 0. */
int64_t tsr_sampler_begin(const tsr_sampler *sampler, int64_t sample);

/* tokens   (seq) written: the sample's tokens
 * targets  (seq) written: each one's successor
 * sample   global index, >= 0; counts on through the epochs */
void tsr_sampler_read(const tsr_sampler *sampler, int64_t sample,
                      int32_t *tokens, int32_t *targets);

#endif
