/* Memory of gathered copies and buckets: each block is the storage of a tensor
 * of torch's, so that torch's allocator counts it and views of it are ordinary
 * tensors. A freed block's storage is resized to nothing, while views of it
 * live too.
 *
 *   used --[dc_storage_waited]--> at rest --[free]--> gone
 *   used --[free]--> leaving --[its stream passes; reap]--> gone
 *
 * A block that work in flight may still use is freed behind that: the stream
 * marks it, and the next call frees it, since torch's allocator is for torch's
 * threads. With the registry's lock held. */
#ifndef TSR_TORCH_STORAGE_H
#define TSR_TORCH_STORAGE_H

#include <stdatomic.h>
#include <stdbool.h>

#include "shim.h"
#include "tessera/eager.h"

typedef struct dc_block {
    struct dc_block *next;
    dc_tensor bytes; /* the storage, as u8; owned */
    dc_tensor
        typed; /* the same as elements, of `dtype`; NULL: not yet; owned */
    int32_t dtype;
    void *memory;
    size_t size;
    bool at_rest;     /* the host has waited for what writes it */
    bool handed_over; /* a tensor of the caller's owns the storage now */
    atomic_bool passed;
} dc_block;

typedef struct dc_storage {
    tsr_allocator allocator;
    dc_block *used, *leaving; /* lists; owned */
    size_t held;              /* bytes of both */
} dc_storage;

/* Borrowed; of this storage. */
const tsr_allocator *dc_storage_allocator(dc_storage *storage);
/* Nothing may be in flight any more. */
void dc_storage_release(dc_storage *storage);

/* The block that begins there; NULL: none. */
dc_block *dc_storage_find(const dc_storage *storage, const void *memory);
/* The block's memory as a dense tensor; the block keeps its own reference. */
tsr_status dc_block_tensor(dc_block *block, int32_t torch_dtype, int64_t dims,
                           const int64_t *sizes, dc_tensor *out_tensor);
/* Frees blocks that are through. */
void dc_storage_reap(dc_storage *storage);

#endif
