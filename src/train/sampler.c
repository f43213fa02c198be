#include "train/sampler.h"

#include <Random123/philox.h>
#include <assert.h>
#include <inttypes.h>

#include "base/status.h"

/* Luby & Rackoff need 4 rounds for large domains; small ones mix slower. */
#define ROUNDS 8u
/* Stands where a round's number stands in the counter. */
#define OFFSET_STREAM 0xffffffffu

/* 128 random bits of (seed, epoch, stream, value). */
static philox4x32_ctr_t noise(const tsr_sampler *sampler, uint64_t epoch,
                              uint32_t stream, uint32_t value) {
    philox4x32_key_t key = {
        {(uint32_t)sampler->seed, (uint32_t)(sampler->seed >> 32)}};
    philox4x32_ctr_t counter = {
        {value, stream, (uint32_t)epoch, (uint32_t)(epoch >> 32)}};
    return philox4x32(counter, key);
}

/* A permutation of [0, 4^half_bits): each round is undone by XORing the same
 * bits again, so it loses nothing. */
static uint64_t feistel(const tsr_sampler *sampler, uint64_t epoch,
                        uint64_t value) {
    const uint64_t mask = (UINT64_C(1) << sampler->half_bits) - 1;
    uint64_t left = value >> sampler->half_bits, right = value & mask;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint64_t next =
            left ^ (noise(sampler, epoch, round, (uint32_t)right).v[0] & mask);
        left = right;
        right = next;
    }
    return left << sampler->half_bits | right;
}

/* Following a permutation of a larger set from inside a smaller one until it
 * comes back is a permutation of the smaller one. The larger set has at most 4
 * times the elements (4 for one window), so this takes 4 steps on average. */
static uint64_t order(const tsr_sampler *sampler, uint64_t epoch,
                      uint64_t index) {
    do
        index = feistel(sampler, epoch, index);
    while (index >= (uint64_t)sampler->windows);
    return index;
}

static uint64_t offset(const tsr_sampler *sampler, uint64_t epoch) {
    philox4x32_ctr_t random = noise(sampler, epoch, OFFSET_STREAM, 0);
    uint64_t bits = (uint64_t)random.v[1] << 32 | random.v[0];
    return bits % ((uint64_t)sampler->spare + 1);
}

tsr_status tsr_sampler_init(tsr_sampler *out_sampler, const tsr_corpus *corpus,
                            int64_t seq, uint64_t seed) {
    if (seq < 1)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "a sequence of %" PRId64 " tokens", seq);
    int64_t tokens = tsr_corpus_tokens(corpus);
    if (tokens - 1 < seq)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "the text has %" PRId64
                         " tokens; one sequence of %" PRId64
                         " and the token after it takes %" PRIu64,
                         tokens, seq, (uint64_t)seq + 1);
    tsr_sampler sampler = {.corpus = corpus, .seq = seq, .seed = seed};
    sampler.windows = (tokens - 1) / seq;
    sampler.spare = (tokens - 1) % seq;
    sampler.half_bits = 1;
    while (((uint64_t)sampler.windows - 1) >> (2 * sampler.half_bits) != 0)
        sampler.half_bits++;
    *out_sampler = sampler;
    return TSR_OK;
}

int64_t tsr_sampler_begin(const tsr_sampler *sampler, int64_t sample) {
    assert(sample >= 0);
    uint64_t epoch = (uint64_t)(sample / sampler->windows);
    uint64_t index = (uint64_t)(sample % sampler->windows);
    return (int64_t)(offset(sampler, epoch) +
                     order(sampler, epoch, index) * (uint64_t)sampler->seq);
}

void tsr_sampler_read(const tsr_sampler *sampler, int64_t sample,
                      int32_t *tokens, int32_t *targets) {
    int64_t begin = tsr_sampler_begin(sampler, sample);
    tsr_corpus_read(sampler->corpus, begin, (size_t)sampler->seq, tokens);
    tsr_corpus_read(sampler->corpus, begin + 1, (size_t)sampler->seq, targets);
}
