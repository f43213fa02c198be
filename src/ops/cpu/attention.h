/* What attention's forward and backward share. */
#ifndef TSR_OPS_CPU_ATTENTION_H
#define TSR_OPS_CPU_ATTENTION_H

#include "ops/cpu/isa.h"
#include "ops/cpu/parallel.h"

/* Queries of a block: longer ones skip less of what the mask hides. */
#define TSR_QUERIES 64

/* One block's scores. */
static inline size_t tsr_score_bytes(const tsr_attention_shape *s) {
    return tsr_slot_bytes(tsr_min(TSR_QUERIES, s->T) * s->T);
}

#endif
