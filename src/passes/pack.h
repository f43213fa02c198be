/* Interval packing: blocks that are alive for a range of nodes, at offsets
 * where no two that are alive together overlap. */
#ifndef TSR_PASSES_PACK_H
#define TSR_PASSES_PACK_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct tsr_block {
    int32_t first, last; /* nodes, both included */
    size_t bytes;        /* a multiple of the alignment; may be 0 */
    size_t offset;       /* out */
} tsr_block;

/* Places the blocks; *out_bytes is the end of the highest, *out_live the most
 * bytes alive at one node (no packing needs less). Largest first, each into the
 * smallest gap that holds it among the blocks alive with it (greedy by size, as
 * in TensorFlow Lite's memory planner; Pisarchyk and Lee 2020). Cost: blocks
 * squared. */
tsr_status tsr_pack(tsr_block *blocks, size_t block_count, size_t *out_bytes,
                    size_t *out_live);

#endif
