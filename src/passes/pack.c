#include "passes/pack.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

typedef struct sized {
    size_t bytes;
    int32_t span, index;
} sized;

/* Large before small; among equals long-lived before short-lived; then by
 * index, so that the result never varies. */
static int by_size(const void *left, const void *right) {
    const sized *a = left, *b = right;
    if (a->bytes != b->bytes)
        return a->bytes > b->bytes ? -1 : 1;
    if (a->span != b->span)
        return a->span > b->span ? -1 : 1;
    return a->index < b->index ? -1 : a->index > b->index;
}

/* Lowest offset of the smallest gap that holds `block` between the placed
 * blocks that live with it. `placed` is sorted by offset. */
static size_t find_gap(const tsr_block *blocks, const int32_t *placed,
                       size_t placed_count, const tsr_block *block) {
    size_t end = 0, best = SIZE_MAX,
           best_gap = SIZE_MAX; /* end: of what was passed so far */
    for (size_t i = 0; i < placed_count; i++) {
        const tsr_block *other = &blocks[placed[i]];
        if (other->last < block->first || other->first > block->last)
            continue;
        if (other->offset > end && other->offset - end >= block->bytes &&
            other->offset - end < best_gap) {
            best = end;
            best_gap = other->offset - end;
        }
        if (other->offset + other->bytes > end)
            end = other->offset + other->bytes;
    }
    return best != SIZE_MAX ? best : end;
}

static tsr_status most_alive(const tsr_block *blocks, size_t count,
                             size_t *out_live) {
    int32_t last = -1;
    size_t *starts, *ends, alive = 0;
    *out_live = 0;
    for (size_t i = 0; i < count; i++)
        last = blocks[i].last > last ? blocks[i].last : last;
    TSR_TRY(
        tsr_alloc(2 * ((size_t)last + 2), sizeof *starts, (void **)&starts));
    ends = starts + last + 2;
    for (size_t i = 0; i < count; i++) {
        starts[blocks[i].first] += blocks[i].bytes;
        ends[blocks[i].last + 1] += blocks[i].bytes;
    }
    for (int32_t n = 0; n <= last; n++) {
        alive += starts[n];
        alive -= ends[n];
        *out_live = alive > *out_live ? alive : *out_live;
    }
    tsr_free(starts);
    return TSR_OK;
}

tsr_status tsr_pack(tsr_block *blocks, size_t block_count, size_t *out_bytes,
                    size_t *out_live) {
    tsr_status status = TSR_OK;
    sized *order = NULL;
    int32_t *placed = NULL;
    size_t placed_count = 0;
    *out_bytes = 0;
    TSR_TRY_GOTO(most_alive(blocks, block_count, out_live));
    TSR_TRY_GOTO(tsr_alloc(block_count, sizeof *order, (void **)&order));
    TSR_TRY_GOTO(tsr_alloc(block_count, sizeof *placed, (void **)&placed));
    for (size_t i = 0; i < block_count; i++)
        order[i] = (sized){blocks[i].bytes, blocks[i].last - blocks[i].first,
                           (int32_t)i};
    if (block_count > 0)
        qsort(order, block_count, sizeof *order, by_size);
    for (size_t i = 0; i < block_count && order[i].bytes > 0; i++) {
        tsr_block *block = &blocks[order[i].index];
        block->offset = find_gap(blocks, placed, placed_count, block);
        size_t at = placed_count++;
        while (at > 0 && blocks[placed[at - 1]].offset > block->offset) {
            placed[at] = placed[at - 1];
            at--;
        }
        placed[at] = order[i].index;
        if (block->offset + block->bytes > *out_bytes)
            *out_bytes = block->offset + block->bytes;
    }
done:
    tsr_free(placed);
    tsr_free(order);
    return status;
}
