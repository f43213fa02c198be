/* The loops behind sum.h, compiled once an instruction set: everything in
 * loops.c is static but the table named by the set. */
#ifndef TSR_COMM_SUM_LOOPS_H
#define TSR_COMM_SUM_LOOPS_H

#include "comm/sum.h"

/* sum.h says what each does. */
typedef struct tsr_sum_loops {
    const char *isa; /* "baseline", "avx2", "avx512" */
    void (*load)(tsr_sum_block *sum, tsr_dtype dtype, const void *from,
                 size_t valid, size_t count);
    void (*add)(tsr_sum_block *sum, tsr_dtype dtype, const void *from,
                size_t valid);
    void (*store)(tsr_sum_block *sum, tsr_dtype dtype, void *to, size_t count,
                  float scale, bool accumulate);
    double (*squares)(const tsr_sum_block *sum, tsr_dtype dtype, size_t count);
    void (*store_pair)(const tsr_sum_pair *pair);
} tsr_sum_loops;

/* The sets this processor can run, widest last; at least one. Thread-safe. */
size_t tsr_sum_sets(const tsr_sum_loops *const **out_sets);

#endif
