/* What attention's forward and backward share. Its products are in f32: bf16
 * heads are converted into the slot's panels. */
#ifndef TSR_OPS_CPU_ATTENTION_H
#define TSR_OPS_CPU_ATTENTION_H

#include "ops/cpu/element.h"
#include "ops/cpu/parallel.h"

/* Queries of a block: longer ones skip less of what the mask hides. */
#define TSR_QUERIES 64

/* One block's scores. */
static inline size_t tsr_score_bytes(const tsr_attention_shape *s) {
    return tsr_slot_bytes(tsr_min(TSR_QUERIES, s->T) * s->T);
}

/* `heads` panels of all tokens and `blocks` panels of a block's queries. */
static inline size_t tsr_head_panels_bytes(const tsr_attention_shape *s,
                                           int heads, int blocks) {
    const int64_t rows = heads * s->T + blocks * tsr_min(TSR_QUERIES, s->T);
    return tsr_slot_bytes(tsr_panel_floats(rows * s->D));
}

#endif
