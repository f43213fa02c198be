/* The ops that move tensors and shards to the host and back.
 *
 * No op returns memory of its argument, since the schemas do not say that they
 * alias: offload_tensor and wait_offload give tensors around the host's buffer;
 * reload_tensor gives one without memory, which nobody reads, and wait_reload
 * the memory that was copied back, which is the caller's from then on. */
#include "base/memory.h"
#include "ops.h"
#include "registry.h"

typedef tsr_status (*op_body)(dc_engine *engine, int64_t graph, int64_t id,
                              dc_tensor a, dc_tensor *out_tensor);

static tsr_status empty_laid_out(const dc_view *like, dc_tensor *out_tensor) {
    dc_tensor flat = NULL;
    TSR_TRY(dc_tensor_empty(like, 1, &like->numel, like->dtype, &flat));
    tsr_status status = dc_tensor_laid_out(flat, like, out_tensor);
    dc_tensor_release(flat);
    return status;
}

/* A tensor without elements is not moved. */
static tsr_status run_on(dc_engine *engine, dc_value *stack, op_body body,
                         bool gives, dc_tensor a, dc_tensor *out_tensor) {
    dc_view view;
    TSR_TRY(dc_tensor_view(a, &view));
    dc_storage_reap(&engine->storage);
    return gives && view.numel == 0 ? empty_laid_out(&view, out_tensor)
                                    : body(engine, (int64_t)stack[1],
                                           (int64_t)stack[2], a, out_tensor);
}

/* What all have in common. */
static void run(const char *op, dc_value *stack, op_body body, bool gives) {
    dc_tensor a = dc_take_tensor(stack[0]), made = NULL;
    dc_engine *engine = NULL;
    dc_lock();
    tsr_status status = dc_engine_of_graph((int64_t)stack[1], &engine);
    if (status == TSR_OK)
        status = run_on(engine, stack, body, gives, a, &made);
    dc_unlock();
    dc_tensor_release(a);
    if (status != TSR_OK)
        dc_throw(op);
    if (gives)
        stack[0] = dc_give_tensor(made);
}

static size_t bytes_of(const dc_view *view) {
    return (size_t)view->numel *
           dc_torch()->aoti_torch_dtype_element_size(view->dtype);
}

/* ---- tensors ---- */

/* Torch may use the tensor's memory again as soon as this returns, before
 * wait_offload, which is given the host's copy. */
static tsr_status offload_dense(dc_engine *engine, int64_t graph, int64_t id,
                                dc_tensor a, dc_tensor *out_tensor) {
    dc_view view;
    void *data = NULL, *host = NULL;
    TSR_TRY(dc_tensor_view(a, &view));
    TSR_TRY(dc_tensor_data(a, &data));
    TSR_TRY(tsr_zero_offload_tensor(engine->zero, graph, id, data,
                                    bytes_of(&view), engine->stream, &host));
    TSR_TRY(tsr_zero_wait_offload(engine->zero, graph, id, engine->stream));
    return dc_tensor_around(host, &view, out_tensor);
}

static tsr_status offload(dc_engine *engine, int64_t graph, int64_t id,
                          dc_tensor a, dc_tensor *out_tensor) {
    dc_view view;
    dc_tensor dense = NULL;
    TSR_TRY(dc_tensor_view(a, &view));
    TSR_TRY(dc_tensor_check_memory(a, &view));
    if (dc_view_dense(&view))
        return offload_dense(engine, graph, id, a, out_tensor);
    TSR_TRY(dc_tensor_copy(a, view.dtype, &dense));
    tsr_status status = offload_dense(engine, graph, id, dense, out_tensor);
    dc_tensor_release(dense);
    return status;
}

static tsr_status wait_offloaded(dc_engine *engine, int64_t graph, int64_t id,
                                 dc_tensor a, dc_tensor *out_tensor) {
    dc_view view;
    void *host = NULL;
    TSR_TRY(dc_tensor_view(a, &view));
    TSR_TRY(dc_tensor_data(a, &host));
    TSR_TRY(tsr_zero_wait_offload(engine->zero, graph, id, engine->stream));
    return dc_tensor_around(host, &view, out_tensor);
}

/* Profiling runs a backward whose forward has offloaded nothing. */
static tsr_status reload(dc_engine *engine, int64_t graph, int64_t id,
                         dc_tensor a, dc_tensor *out_tensor) {
    dc_view view;
    TSR_TRY(dc_tensor_view(a, &view));
    tsr_status status =
        tsr_zero_reload_tensor(engine->zero, graph, id, engine->stream, NULL);
    if (status == TSR_NOT_FOUND && engine->profiling)
        return empty_laid_out(&view, out_tensor);
    TSR_TRY(status);
    return dc_tensor_hollow(&view, out_tensor);
}

/* The block's storage becomes the tensor's alone. */
static tsr_status hand_over(dc_engine *engine, void *memory,
                            const dc_view *view, dc_tensor *out_tensor) {
    dc_block *block = dc_storage_find(&engine->storage, memory);
    if (!block)
        return tsr_error(TSR_NOT_FOUND, "a reloaded tensor without a block");
    dc_tensor flat = NULL;
    TSR_TRY(dc_block_tensor(block, view->dtype, 1, &view->numel, &flat));
    tsr_status status = dc_tensor_laid_out(flat, view, out_tensor);
    dc_tensor_release(flat);
    TSR_TRY(status);
    block->at_rest = block->handed_over = true;
    tsr_zero_enable_profiling(engine->zero, false); /* which frees nothing */
    status = tsr_zero_free_tensors(engine->zero, &memory, 1, engine->stream);
    tsr_zero_enable_profiling(engine->zero, engine->profiling);
    return status;
}

static tsr_status wait_reloaded(dc_engine *engine, int64_t graph, int64_t id,
                                dc_tensor a, dc_tensor *out_tensor) {
    dc_view view;
    void *memory = NULL;
    int64_t stored = 0;
    TSR_TRY(dc_tensor_view(a, &view));
    DC_TRY(aoti_torch_get_storage_size(a, &stored));
    TSR_TRY(tsr_zero_wait_reload(engine->zero, graph, id, NULL, engine->stream,
                                 &memory));
    if (memory)
        return hand_over(engine, memory, &view, out_tensor);
    return stored > 0 ? dc_tensor_copy(a, view.dtype, out_tensor)
                      : empty_laid_out(&view, out_tensor);
}

/* ---- shards ---- */

typedef tsr_status (*move)(tsr_zero *zero, int64_t id, tsr_stream *stream);

static tsr_status move_shard(dc_engine *engine, int64_t id, move move_it,
                             bool away) {
    dc_param *param = NULL;
    TSR_TRY(dc_find_param(engine, id, &param));
    TSR_TRY(move_it(engine->zero, id, engine->stream));
    param->away = away;
    return TSR_OK;
}

static tsr_status offload_shard(dc_engine *engine, int64_t graph, int64_t id,
                                dc_tensor a, dc_tensor *out_tensor) {
    (void)graph, (void)a, (void)out_tensor;
    return move_shard(engine, id, tsr_zero_offload_parameter, true);
}

static tsr_status reload_shard(dc_engine *engine, int64_t graph, int64_t id,
                               dc_tensor a, dc_tensor *out_tensor) {
    (void)graph, (void)a, (void)out_tensor;
    return move_shard(engine, id, tsr_zero_reload_parameter, false);
}

/* ---- kernels ---- */

#define KERNEL(name, body, gives)                                              \
    static void name(dc_value *stack, uint64_t arguments, uint64_t results) {  \
        (void)arguments, (void)results;                                        \
        run(#name, stack, body, gives);                                        \
    }

KERNEL(offload_tensor, offload, true)
KERNEL(wait_offload, wait_offloaded, true)
KERNEL(reload_tensor, reload, true)
KERNEL(wait_reload, wait_reloaded, true)
KERNEL(offload_parameter, offload_shard, false)
KERNEL(reload_parameter, reload_shard, false)

/* DeepSpeed brings its own Meta kernels of the first four. */
const dc_op dc_offload_ops[] = {
    {"offload_tensor", offload_tensor, NULL},
    {"wait_offload", wait_offload, NULL},
    {"reload_tensor", reload_tensor, NULL},
    {"wait_reload", wait_reload, NULL},
    {"offload_parameter", offload_parameter, dc_kernel_nothing},
    {"reload_parameter", reload_parameter, dc_kernel_nothing},
};
const size_t dc_offload_op_count =
    sizeof dc_offload_ops / sizeof *dc_offload_ops;
