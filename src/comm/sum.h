/* Sums over ranks, block by block, in f32 (i32 in i32, wrapping).
 *
 * A block is loaded from the first rank and the others are added in rank order;
 * it starts from the first rank's value itself (not from 0 + it, which differs
 * for -0.0). Every path uses the same blocks, counted from the tensor's start,
 * so bits do not depend on the path. */
#ifndef TSR_COMM_SUM_H
#define TSR_COMM_SUM_H

#include <stdbool.h>
#include <stddef.h>

#include "tessera/dtype.h"

/* Elements; 16 KiB of f32: sum and source stay in a first-level cache. */
#define TSR_SUM_BLOCK 4096

typedef union tsr_sum_block {
    float f32[TSR_SUM_BLOCK];
    uint32_t i32[TSR_SUM_BLOCK]; /* unsigned: overflow wraps */
} tsr_sum_block;

/* sum[i] = i < valid ? from[i] : 0   for i < count */
void tsr_sum_load(tsr_sum_block *sum, tsr_dtype dtype, const void *from,
                  size_t valid, size_t count);
/* sum[i] += from[i]   for i < valid */
void tsr_sum_add(tsr_sum_block *sum, tsr_dtype dtype, const void *from,
                 size_t valid);
/* to[i] = (accumulate ? to[i] : 0) + scale * sum[i], rounded to nearest even.
 * `sum` then holds what was written. */
void tsr_sum_store(tsr_sum_block *sum, tsr_dtype dtype, void *to, size_t count,
                   float scale, bool accumulate);
/* The sum of squares of a block that was stored. */
double tsr_sum_squares(const tsr_sum_block *sum, tsr_dtype dtype, size_t count);

/* The last two ranks' values, or the sum so far and the last rank's, in one
 * pass:
 *
 *   to[i] = (accumulate ? to[i] : 0) + scale * (first[i] + second[i])
 *
 * with the bits of load, add and store, block by block. first and second: f32
 * or bf16 each, but not (bf16, f32); `to` may be one of them. */
typedef struct tsr_sum_pair {
    const void *first, *second; /* (count) */
    tsr_dtype first_dtype, second_dtype;
    float *to;    /* (count) */
    size_t count; /* any number of blocks */
    float scale;
    bool accumulate;
    bool past_caches; /* nobody reads `to` soon */
    double *squares;  /* may be NULL: tsr_sum_squares of each block is added */
} tsr_sum_pair;

/* Whether sums over ranks of `wire` that become `out` can end with a pair. */
bool tsr_sum_pairs(tsr_dtype wire_dtype, tsr_dtype out_dtype);
void tsr_sum_pair_store(const tsr_sum_pair *pair);

#endif
