/* Products of bf16 matrices by oneDNN's matmul primitive, one-threaded,
 * row-major.
 *
 *   c = op(a) op(b) + bias + (accumulate ? c : 0)
 *
 * Summed in f32 and rounded once. Denormal numbers may count as 0. */
#ifndef TSR_OPS_CPU_MATMUL_H
#define TSR_OPS_CPU_MATMUL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tessera/status.h"

typedef struct tsr_matmul_shape {
    bool trans_a, trans_b; /* a is (k, m), b is (n, k) */
    bool has_bias;         /* (n), added to every row */
    bool accumulate;
    int64_t m, n, k;
    int64_t lda, ldb, ldc; /* from row to row */
} tsr_matmul_shape;

/* The product of one shape, its code made; one thread at a time, since it holds
 * the operands of the call in hand. */
typedef struct tsr_matmul tsr_matmul;

/* Errors: UNSUPPORTED (the library lacks it), OUT_OF_MEMORY. A second one of
 * the same shape shares the first one's code. */
tsr_status tsr_matmul_create(const tsr_matmul_shape *shape,
                             tsr_matmul **out_matmul);
void tsr_matmul_release(tsr_matmul *matmul); /* takes NULL */

/* Bytes of scratch that products of this shape need; 0 where they cannot be. */
size_t tsr_matmul_scratch_bytes(const tsr_matmul_shape *shape);

typedef struct tsr_matmul_operands {
    const uint16_t *a, *b, *bias; /* bias: NULL without */
    uint16_t *c;
    void *scratch; /* 64-byte aligned */
} tsr_matmul_operands;

/* Allocates nothing of ours (oneDNN may pack). Errors: OUT_OF_MEMORY. */
tsr_status tsr_matmul_run(tsr_matmul *matmul,
                          const tsr_matmul_operands *operands);

/* Whether products can be had: a oneDNN of version 2 was found. Thread-safe. */
bool tsr_matmul_possible(void);

#endif
