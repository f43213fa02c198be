/* The standard rows, one array a family. */
#ifndef TSR_GRAPH_OP_TABLE_H
#define TSR_GRAPH_OP_TABLE_H

#include "tessera/graph.h"

typedef struct tsr_op_rows {
    const tsr_op *rows;
    size_t count;
} tsr_op_rows;

tsr_op_rows tsr_token_ops(void);     /* embedding, positions, cross-entropy */
tsr_op_rows tsr_dense_ops(void);     /* linear, norm, activation, add */
tsr_op_rows tsr_attention_ops(void); /* attention, cached attention */
tsr_op_rows tsr_optimizer_ops(void); /* adamw, sum, clip_scale */
tsr_op_rows
tsr_zero_ops(void); /* gather, wait, release, reduce, all_reduce, fences */

#endif
