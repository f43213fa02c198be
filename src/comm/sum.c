/* Picks the widest loops that this processor runs. */
#include "base/isa.h"
#include "comm/sum/loops.h"

extern const tsr_sum_loops tsr_sum_loops_baseline, tsr_sum_loops_avx2,
    tsr_sum_loops_avx512;

static const tsr_sum_loops *const sets[] = TSR_ISA_SETS(tsr_sum_loops);

size_t tsr_sum_sets(const tsr_sum_loops *const **out_sets) {
    *out_sets = sets;
    return tsr_isa_supported();
}

/* Some nanoseconds a block of a thousand: cheaper than state. */
static const tsr_sum_loops *best(void) { return sets[tsr_isa_supported() - 1]; }

void tsr_sum_load(tsr_sum_block *sum, tsr_dtype dtype, const void *from,
                  size_t valid, size_t count) {
    best()->load(sum, dtype, from, valid, count);
}

void tsr_sum_add(tsr_sum_block *sum, tsr_dtype dtype, const void *from,
                 size_t valid) {
    best()->add(sum, dtype, from, valid);
}

void tsr_sum_store(tsr_sum_block *sum, tsr_dtype dtype, void *to, size_t count,
                   float scale, bool accumulate) {
    best()->store(sum, dtype, to, count, scale, accumulate);
}

double tsr_sum_squares(const tsr_sum_block *sum, tsr_dtype dtype,
                       size_t count) {
    return best()->squares(sum, dtype, count);
}

bool tsr_sum_pairs(tsr_dtype wire_dtype, tsr_dtype out_dtype) {
    return out_dtype == TSR_F32 &&
           (wire_dtype == TSR_F32 || wire_dtype == TSR_BF16);
}

void tsr_sum_pair_store(const tsr_sum_pair *pair) { best()->store_pair(pair); }
