/* The ops that gather, wait and release. */
#include "base/memory.h"
#include "ops.h"
#include "registry.h"

#define KERNEL(name)                                                           \
    static void name(dc_value *stack, uint64_t arguments, uint64_t results)
#define UNUSED_COUNTS ((void)arguments, (void)results)

/* ---- allgather_param ---- */

/* A parameter without elements has no copy. */
static tsr_status copy_tensor(const dc_engine *engine, const dc_param *param,
                              tsr_dtype dtype, const void *memory,
                              dc_tensor *out_tensor) {
    int32_t torch_dtype = dc_dtype_to_torch(dtype);
    dc_block *block = memory ? dc_storage_find(&engine->storage, memory) : NULL;
    if (block)
        return dc_block_tensor(block, torch_dtype, param->dims, param->sizes,
                               out_tensor);
    const dc_view like = {.device_type =
                              dc_torch()->aoti_torch_device_type_cpu(),
                          .device_index = -1};
    return dc_tensor_empty(&like, param->dims, param->sizes, torch_dtype,
                           out_tensor);
}

static tsr_status allgather(int64_t graph, int64_t id, int32_t torch_dtype,
                            dc_tensor a, dc_tensor *out_tensor) {
    (void)a;
    dc_engine *engine = NULL;
    dc_param *param = NULL;
    tsr_view view;
    TSR_TRY(dc_engine_of_graph(graph, &engine));
    TSR_TRY(dc_find_param(engine, id, &param));
    dc_storage_reap(&engine->storage);
    tsr_dtype dtype = param->stored;
    if (torch_dtype >= 0)
        TSR_TRY(dc_dtype_from_torch(torch_dtype, &dtype));
    param->gathered = dtype;
    TSR_TRY(tsr_zero_allgather_param(engine->zero, graph, id, dtype,
                                     engine->stream, &view));
    return copy_tensor(engine, param, dtype, view.data, out_tensor);
}

static tsr_status allgather_shape(int64_t graph, int64_t id,
                                  int32_t torch_dtype, dc_tensor a,
                                  dc_tensor *out_tensor) {
    dc_engine *engine = NULL;
    dc_param *param = NULL;
    dc_view like;
    if (dc_engine_of_graph(graph, &engine) != TSR_OK)
        TSR_TRY(dc_current(&engine));
    TSR_TRY(dc_find_param(engine, id, &param));
    TSR_TRY(dc_tensor_kind(a, &like));
    return dc_tensor_empty(&like, param->dims, param->sizes,
                           torch_dtype >= 0 ? torch_dtype
                                            : dc_dtype_to_torch(param->stored),
                           out_tensor);
}

/* torch_dtype: -1 without. */
typedef tsr_status (*gather_body)(int64_t graph, int64_t id,
                                  int32_t torch_dtype, dc_tensor a,
                                  dc_tensor *out_tensor);

static void run_gather(const char *op, dc_value *stack, gather_body body) {
    dc_tensor a = dc_take_tensor(stack[0]), made = NULL;
    int32_t dtype = dc_take_dtype(stack[3]);
    dc_lock();
    tsr_status status =
        body((int64_t)stack[1], (int64_t)stack[2], dtype, a, &made);
    dc_unlock();
    dc_tensor_release(a);
    if (status != TSR_OK)
        dc_throw(op);
    stack[0] = dc_give_tensor(made);
}

KERNEL(allgather_param) {
    UNUSED_COUNTS;
    run_gather("allgather_param", stack, allgather);
}

KERNEL(allgather_param_meta) {
    UNUSED_COUNTS;
    run_gather("allgather_param", stack, allgather_shape);
}

/* ---- prefetch_params_fused ---- */

/* Without dtypes: in those that the parameters were last asked for, so that
 * what is prefetched is what is used. */
static tsr_status prefetch(int64_t graph, const dc_value *ids,
                           const dc_value *torch_dtypes, size_t count,
                           tsr_dtype *dtypes) {
    dc_engine *engine = NULL;
    TSR_TRY(dc_engine_of_graph(graph, &engine));
    dc_storage_reap(&engine->storage);
    for (size_t i = 0; i < count; i++) {
        dc_param *param = NULL;
        TSR_TRY(dc_find_param(engine, (int64_t)ids[i], &param));
        dtypes[i] = param->gathered;
        if (torch_dtypes)
            TSR_TRY(dc_dtype_from_torch((int32_t)(uint32_t)torch_dtypes[i],
                                        &dtypes[i]));
    }
    return tsr_zero_prefetch_params_fused(engine->zero, (const int64_t *)ids,
                                          dtypes, count, engine->stream);
}

static void release_tensors(dc_value *tensors, size_t count) {
    for (size_t i = 0; i < count; i++)
        dc_tensor_release(dc_take_tensor(tensors[i]));
    tsr_free(tensors);
}

KERNEL(prefetch_params_fused) {
    dc_value *tensors = NULL, *ids = NULL, *dtypes = NULL, boxed;
    size_t tensor_count = 0, count = 0, dtype_count = 0;
    tsr_dtype *found = NULL;
    UNUSED_COUNTS;
    tsr_status status = dc_take_list(stack[1], &tensors, &tensor_count);
    tsr_status second = dc_take_list(stack[2], &ids, &count), third = TSR_OK;
    bool given = dc_take_optional(stack[3], &boxed);
    if (given)
        third = dc_take_list(boxed, &dtypes, &dtype_count);
    status = status != TSR_OK ? status : second != TSR_OK ? second : third;
    if (status == TSR_OK &&
        (tensor_count != count || (given && dtype_count != count)))
        status = tsr_error(TSR_INVALID_ARGUMENT,
                           "%zu parameters, %zu ids, %zu dtypes: as many of "
                           "each, or no dtypes",
                           tensor_count, count, dtype_count);
    if (status == TSR_OK)
        status = tsr_alloc(count, sizeof *found, (void **)&found);
    if (status == TSR_OK) {
        dc_lock();
        status = prefetch((int64_t)stack[0], ids, dtypes, count, found);
        dc_unlock();
    }
    release_tensors(tensors, tensor_count);
    tsr_free(ids);
    tsr_free(dtypes);
    tsr_free(found);
    if (status != TSR_OK)
        dc_throw("prefetch_params_fused");
}

KERNEL(prefetch_params_fused_meta) {
    dc_value *items = NULL, boxed;
    size_t count;
    UNUSED_COUNTS;
    if (dc_take_list(stack[1], &items, &count) == TSR_OK)
        release_tensors(items, count);
    if (dc_take_list(stack[2], &items, &count) == TSR_OK)
        tsr_free(items);
    if (dc_take_optional(stack[3], &boxed) &&
        dc_take_list(boxed, &items, &count) == TSR_OK)
        tsr_free(items);
}

/* ---- wait_allgather, release_param: the tensor passes through ---- */

static tsr_status wait(dc_tensor a, int64_t graph, int64_t id) {
    dc_engine *engine = NULL;
    void *memory = NULL;
    TSR_TRY(dc_engine_of_graph(graph, &engine));
    TSR_TRY(tsr_zero_wait_allgather(engine->zero, graph, id, engine->stream));
    DC_TRY(aoti_torch_get_data_ptr(a, &memory));
    dc_block *block = memory ? dc_storage_find(&engine->storage, memory) : NULL;
    if (block)
        block->at_rest = true; /* the stream is the host: it has waited */
    return TSR_OK;
}

KERNEL(wait_allgather) {
    dc_tensor a = dc_take_tensor(stack[0]);
    UNUSED_COUNTS;
    dc_lock();
    tsr_status status = wait(a, (int64_t)stack[1], (int64_t)stack[2]);
    dc_unlock();
    if (status != TSR_OK) {
        dc_tensor_release(a);
        dc_throw("wait_allgather");
    }
}

static tsr_status release(int64_t graph, int64_t id, int64_t users) {
    dc_engine *engine = NULL;
    TSR_TRY(dc_engine_of_graph(graph, &engine));
    return tsr_zero_release_param(engine->zero, graph, id, (int)users,
                                  engine->stream);
}

KERNEL(release_param) {
    UNUSED_COUNTS;
    dc_lock();
    tsr_status status =
        release((int64_t)stack[1], (int64_t)stack[2], (int64_t)stack[3]);
    dc_unlock();
    if (status != TSR_OK) {
        dc_tensor_release(dc_take_tensor(stack[0]));
        dc_throw("release_param");
    }
}

const dc_op dc_gather_ops[] = {
    {"allgather_param", allgather_param, allgather_param_meta},
    {"prefetch_params_fused", prefetch_params_fused,
     prefetch_params_fused_meta},
    {"wait_allgather", wait_allgather, dc_kernel_same},
    {"release_param", release_param, dc_kernel_same},
    {"test_call", dc_kernel_clone, dc_kernel_clone},
};
const size_t dc_gather_op_count = sizeof dc_gather_ops / sizeof *dc_gather_ops;
