/* Parameters that DeepSpeed registers. */
#include <string.h>

#include "engine.h"

tsr_status dc_find_param(const dc_engine *engine, int64_t id,
                         dc_param **out_param) {
    int32_t index = tsr_map_get(&engine->param_index, id);
    if (index < 0)
        return tsr_error(TSR_NOT_FOUND,
                         "parameter %lld is not registered: register_param or "
                         "register_z3_param comes first",
                         (long long)id);
    *out_param = engine->params.data[index];
    return TSR_OK;
}

void dc_param_release(dc_param *param) {
    if (!param)
        return;
    dc_tensor_release(param->tensor);
    dc_tensor_release(param->grad);
    tsr_free(param->sizes);
    tsr_free(param);
}

/* Where a tensor's memory is now: DeepSpeed swaps it. NULL where it has none.
 */
static void *address(void *context) {
    void *memory = NULL;
    (void)dc_torch()->aoti_torch_get_data_ptr(context, &memory);
    return memory;
}

static tsr_tensor borrowed(dc_tensor tensor) {
    return (tsr_tensor){.address = address, .context = tensor};
}

tsr_status dc_param_enter(dc_engine *engine, dc_param *param) {
    if (param->sharded != (engine->stage == 3))
        return tsr_error(TSR_FAILED_PRECONDITION,
                         "parameter %lld was registered %s, but the graph is "
                         "of ZeRO stage %d: register_z3_param is for stage 3, "
                         "register_param for 1 and 2",
                         (long long)param->id,
                         param->sharded ? "sharded" : "whole", engine->stage);
    tsr_zero_param desc = {
        .id = param->id,
        .type = {.dtype = param->stored, .dims = 1, .shape = {param->numel}},
        .shard = borrowed(param->tensor),
        .grad = borrowed(param->grad),
        .frozen = param->sharded && param->grad_numel == 0 && param->numel > 0,
        .gathered_dtype = param->stored,
        .communicated_dtype = param->communicated,
        .accumulated_dtype = param->accumulated,
        .persistent = param->persistent,
        .slice_offset = param->grad_offset,
        .slice_count = param->sharded ? 0 : param->grad_numel};
    return tsr_zero_register_param(engine->zero, &desc, engine->stream);
}

/* ---- describing ---- */

static int64_t shard_numel(const dc_engine *engine, const dc_param *param) {
    int64_t world = engine->options.world;
    return (param->numel + world - 1) / world;
}

static tsr_status check_shard(const dc_engine *engine, const dc_param *param,
                              const dc_view *shard) {
    int64_t expected = shard_numel(engine, param);
    if (!shard->contiguous)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "parameter %lld: its shard is not contiguous: "
                         "register shard.contiguous()",
                         (long long)param->id);
    if (shard->numel != expected)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "parameter %lld: its shard has %lld elements; %lld "
                         "elements over %d ranks make %lld",
                         (long long)param->id, (long long)shard->numel,
                         (long long)param->numel, engine->options.world,
                         (long long)expected);
    return TSR_OK;
}

/* None, or one of the shard's size. */
static tsr_status check_grad(const dc_engine *engine, const dc_param *param,
                             int64_t numel) {
    int64_t expected = shard_numel(engine, param);
    if (!param->sharded || numel == 0 || numel == expected)
        return TSR_OK;
    return tsr_error(TSR_INVALID_ARGUMENT,
                     "parameter %lld: its gradient buffer has %lld elements, "
                     "its shard %lld: give as many, or none if it is frozen",
                     (long long)param->id, (long long)numel,
                     (long long)expected);
}

static tsr_status set_grad(const dc_engine *engine, dc_param *param,
                           dc_tensor grad, int64_t offset) {
    dc_view view;
    dc_tensor kept = NULL;
    TSR_TRY(dc_tensor_view(grad, &view));
    if (!view.contiguous)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "parameter %lld: its gradient buffer is not "
                         "contiguous: give a contiguous one",
                         (long long)param->id);
    TSR_TRY(check_grad(engine, param, view.numel));
    TSR_TRY(dc_tensor_check_memory(grad, &view));
    tsr_dtype dtype = param->accumulated;
    if (view.numel > 0)
        TSR_TRY(dc_dtype_from_torch(view.dtype, &dtype));
    TSR_TRY(dc_tensor_share(grad, &kept));
    dc_tensor_release(param->grad);
    param->grad = kept;
    param->grad_numel = view.numel;
    param->grad_offset = offset;
    param->accumulated = dtype;
    return TSR_OK;
}

static tsr_status count_elements(const dc_registration *what, dc_param *param) {
    bool fits = true;
    param->numel = 1;
    for (int64_t d = 0; d < what->dims; d++) {
        param->sizes[d] = what->sizes[d];
        fits = fits && what->sizes[d] >= 0 &&
               !__builtin_mul_overflow(param->numel, what->sizes[d],
                                       &param->numel);
    }
    return fits ? TSR_OK
                : tsr_error(TSR_INVALID_ARGUMENT,
                            "parameter %lld: its shape is no shape of a "
                            "tensor: a size is negative, or they are too many "
                            "elements",
                            (long long)what->id);
}

static tsr_status describe(const dc_engine *engine, const dc_registration *what,
                           dc_param *param) {
    dc_view view;
    param->id = what->id;
    param->dims = what->dims;
    param->sharded = what->sharded;
    param->persistent = what->persistent;
    TSR_TRY(tsr_alloc((size_t)what->dims, sizeof *param->sizes,
                      (void **)&param->sizes));
    TSR_TRY(count_elements(what, param));
    TSR_TRY(dc_tensor_view(what->tensor, &view));
    TSR_TRY(dc_dtype_from_torch(view.dtype, &param->stored));
    param->gathered = param->accumulated = param->stored;
    if (param->sharded)
        TSR_TRY(check_shard(engine, param, &view));
    TSR_TRY(set_grad(engine, param, what->grad, what->grad_offset));
    param->communicated = param->stored;
    if (what->dtype >= 0)
        TSR_TRY(dc_dtype_from_torch(what->dtype, &param->communicated));
    return dc_tensor_share(what->tensor, &param->tensor);
}

/* `param` is the engine's from here on, instead of an earlier one of its id;
 * the tsr_zero refers to that one until it knows of the new one. */
static tsr_status enter(dc_engine *engine, dc_param *param) {
    int32_t index = tsr_map_get(&engine->param_index, param->id);
    if (index < 0) {
        TSR_TRY(TSR_ARRAY_RESERVE(&engine->params, 1));
        TSR_TRY(tsr_map_set(&engine->param_index, param->id,
                            (int32_t)engine->params.count));
        TSR_ARRAY_PUSH(&engine->params, NULL);
        index = (int32_t)engine->params.count - 1;
    }
    dc_param *earlier = engine->params.data[index];
    tsr_status status = engine->zero ? dc_param_enter(engine, param) : TSR_OK;
    if (status != TSR_OK && earlier)
        return status;
    engine->params.data[index] = param;
    dc_param_release(earlier);
    return status;
}

tsr_status dc_param_register(dc_engine *engine, const dc_registration *what) {
    dc_param *param = NULL;
    TSR_TRY(tsr_alloc(1, sizeof *param, (void **)&param));
    tsr_status status = describe(engine, what, param);
    if (status == TSR_OK)
        status = enter(engine, param);
    int32_t index = tsr_map_get(&engine->param_index, what->id);
    if (index < 0 || engine->params.data[index] != param)
        dc_param_release(param);
    return status;
}

/* The tsr_zero is told of what set_grad changed. */
static tsr_status tell_grad(dc_engine *engine, dc_param *param,
                            bool new_dtype) {
    if (!engine->zero)
        return TSR_OK;
    if (new_dtype)
        return dc_param_enter(engine, param);
    if (param->sharded)
        return tsr_zero_update_param_grad_buffer(
            engine->zero, param->id, borrowed(param->grad), engine->stream);
    return tsr_zero_update_param_grad_slice(
        engine->zero, param->id, borrowed(param->grad), param->grad_offset,
        param->grad_numel, engine->stream);
}

tsr_status dc_param_update_grad(dc_engine *engine, int64_t id, dc_tensor grad,
                                int64_t offset) {
    dc_param *param = NULL;
    TSR_TRY(dc_find_param(engine, id, &param));
    dc_param before = *param; /* the tsr_zero refers to its grad so far */
    param->grad = NULL;
    tsr_status status = set_grad(engine, param, grad, offset);
    if (status == TSR_OK)
        status =
            tell_grad(engine, param, param->accumulated != before.accumulated);
    if (status == TSR_OK) {
        dc_tensor_release(before.grad);
        return TSR_OK;
    }
    dc_tensor_release(param->grad);
    *param = before;
    return status;
}
