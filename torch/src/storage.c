#include "storage.h"

#include "base/memory.h"
#include "tensor.h"

static void block_release(dc_storage *storage, dc_block *block) {
    storage->held -= block->size;
    if (!block->handed_over)
        (void)dc_tensor_resize_storage(block->bytes, 0);
    dc_tensor_release(block->typed);
    dc_tensor_release(block->bytes);
    tsr_free(block);
}

static tsr_status block_create(size_t size, dc_block **out_block) {
    dc_block *block = NULL;
    const int64_t sizes[] = {(int64_t)size};
    const dc_view like = {.device_type =
                              dc_torch()->aoti_torch_device_type_cpu(),
                          .device_index = -1};
    TSR_TRY(tsr_alloc(1, sizeof *block, (void **)&block));
    block->size = size;
    tsr_status status = dc_tensor_empty(
        &like, 1, sizes, dc_torch()->aoti_torch_dtype_uint8(), &block->bytes);
    if (status == TSR_OK &&
        dc_torch()->aoti_torch_get_data_ptr(block->bytes, &block->memory) != 0)
        status = dc_torch_failed("data_ptr");
    if (status != TSR_OK) {
        dc_tensor_release(block->bytes);
        tsr_free(block);
        return tsr_error(TSR_OUT_OF_MEMORY, "torch gave no %zu bytes", size);
    }
    *out_block = block;
    return TSR_OK;
}

static tsr_status alloc(void *context, size_t bytes, tsr_stream *stream,
                        void **out_memory) {
    dc_storage *storage = context;
    dc_block *block = NULL;
    (void)stream; /* fresh memory of the host's */
    TSR_TRY(block_create(bytes, &block));
    block->next = storage->used;
    storage->used = block;
    storage->held += bytes;
    *out_memory = block->memory;
    return TSR_OK;
}

static tsr_status mark_passed(void *context) {
    atomic_store(&((dc_block *)context)->passed, true);
    return TSR_OK;
}

/* A stream that has failed drops the mark: the block then goes with the
 * storage. */
static void free_block(void *context, void *memory, size_t bytes,
                       tsr_stream *stream) {
    dc_storage *storage = context;
    dc_block **link = &storage->used;
    (void)bytes;
    while (*link && (*link)->memory != memory)
        link = &(*link)->next;
    dc_block *block = *link;
    if (!block)
        return;
    *link = block->next;
    if (block->at_rest) {
        block_release(storage, block);
        return;
    }
    block->next = storage->leaving;
    storage->leaving = block;
    (void)tsr_stream_enqueue(stream, mark_passed, block);
}

const tsr_allocator *dc_storage_allocator(dc_storage *storage) {
    storage->allocator =
        (tsr_allocator){.alloc = alloc, .free = free_block, .context = storage};
    return &storage->allocator;
}

void dc_storage_reap(dc_storage *storage) {
    for (dc_block **link = &storage->leaving; *link;) {
        dc_block *block = *link;
        if (!atomic_load(&block->passed)) {
            link = &block->next;
            continue;
        }
        *link = block->next;
        block_release(storage, block);
    }
}

void dc_storage_release(dc_storage *storage) {
    dc_block **lists[] = {&storage->used, &storage->leaving};
    for (int i = 0; i < 2; i++)
        while (*lists[i]) {
            dc_block *block = *lists[i];
            *lists[i] = block->next;
            block_release(storage, block);
        }
}

dc_block *dc_storage_find(const dc_storage *storage, const void *memory) {
    dc_block *block = storage->used;
    while (block && block->memory != memory)
        block = block->next;
    return block;
}

tsr_status dc_block_tensor(dc_block *block, int32_t torch_dtype, int64_t dims,
                           const int64_t *sizes, dc_tensor *out_tensor) {
    if (!block->typed || block->dtype != torch_dtype) {
        dc_tensor typed = NULL;
        TSR_TRY(dc_tensor_retyped(block->bytes, torch_dtype, &typed));
        dc_tensor_release(block->typed);
        block->typed = typed;
        block->dtype = torch_dtype;
    }
    return dc_tensor_shaped(block->typed, dims, sizes, out_tensor);
}
