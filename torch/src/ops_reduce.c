/* The ops of gradients, and freeing. */
#include <string.h>

#include "base/memory.h"
#include "ops.h"
#include "registry.h"

#define KERNEL(name)                                                           \
    static void name(dc_value *stack, uint64_t arguments, uint64_t results)
#define UNUSED_COUNTS ((void)arguments, (void)results)

/* ---- reduce_grad ---- */

/* The gradient is dense and of the dtype on the wire. Torch may use its memory
 * again as soon as this returns. */
static tsr_status reduce_kept(const dc_engine *engine, int64_t graph,
                              int64_t id, dc_tensor grad) {
    void *data = NULL;
    TSR_TRY(dc_tensor_data(grad, &data));
    TSR_TRY(
        tsr_zero_reduce_grad(engine->zero, graph, id, data, engine->stream));
    return tsr_zero_wait_grads_copied(engine->zero, engine->stream);
}

/* The gradient's values, dense and in torch's dtype `wire`, at `slot`. */
static tsr_status copy_cast(void *slot, int32_t wire, const dc_view *view,
                            dc_tensor grad) {
    const int64_t step = 1;
    const dc_view line = {.numel = view->numel,
                          .dims = 1,
                          .sizes = &view->numel,
                          .strides = &step,
                          .dtype = wire,
                          .device_type = view->device_type,
                          .device_index = view->device_index};
    dc_tensor flat = NULL, shaped = NULL;
    tsr_status status = dc_tensor_around(slot, &line, &flat);
    if (status == TSR_OK)
        status = dc_tensor_shaped(flat, view->dims, view->sizes, &shaped);
    if (status == TSR_OK && dc_torch()->aoti_torch_copy_(shaped, grad, 0) != 0)
        status = dc_torch_failed("copy_");
    dc_tensor_release(shaped);
    dc_tensor_release(flat);
    return status;
}

/* This thread copies the gradient into its slot: to hand a copy to the queue's
 * thread and to wait for it costs more than most copies. */
static tsr_status reduce_into(const dc_engine *engine, int64_t graph,
                              int64_t id, void *slot, int32_t wire,
                              const dc_view *view, dc_tensor grad) {
    void *data = NULL;
    TSR_TRY(dc_tensor_data(grad, &data));
    if (view->dtype != wire || !view->contiguous)
        TSR_TRY(copy_cast(slot, wire, view, grad));
    else if (view->numel > 0)
        memcpy(slot, data,
               (size_t)view->numel *
                   dc_torch()->aoti_torch_dtype_element_size(wire));
    return tsr_zero_reduce_grad(engine->zero, graph, id, slot, engine->stream);
}

static tsr_status reduce_dense(const dc_engine *engine, int64_t graph,
                               int64_t id, dc_tensor a, const dc_view *view,
                               int32_t wire) {
    dc_tensor dense = NULL;
    if (view->dtype == wire && view->contiguous)
        return reduce_kept(engine, graph, id, a);
    TSR_TRY(dc_tensor_copy(a, wire, &dense));
    tsr_status status = reduce_kept(engine, graph, id, dense);
    dc_tensor_release(dense);
    return status;
}

static tsr_status reduce(dc_tensor a, int64_t graph, int64_t id) {
    dc_engine *engine = NULL;
    dc_param *param = NULL;
    void *slot = NULL;
    dc_view view;
    TSR_TRY(dc_engine_of_graph(graph, &engine));
    TSR_TRY(dc_find_param(engine, id, &param));
    dc_storage_reap(&engine->storage);
    if (engine->profiling)
        return TSR_OK;
    TSR_TRY(dc_tensor_view(a, &view));
    if (view.numel != param->numel)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "parameter %lld has %lld elements, its gradient %lld: "
                         "reduce the whole gradient",
                         (long long)id, (long long)param->numel,
                         (long long)view.numel);
    TSR_TRY(dc_tensor_check_memory(a, &view));
    int32_t wire = dc_dtype_to_torch(param->communicated);
    TSR_TRY(tsr_zero_grad_slot(engine->zero, graph, id, engine->stream, &slot));
    return slot ? reduce_into(engine, graph, id, slot, wire, &view, a)
                : reduce_dense(engine, graph, id, a, &view, wire);
}

/* The result: (0,), of the gradient's dtype and device. Up to DeepSpeed 0.18 it
 * leaves the graph as the parameter's gradient, whose shape it has not: there
 * it is an undefined tensor, Python's None, which is no gradient. */
static tsr_status nothing(dc_tensor a, dc_tensor *out_tensor) {
    const int64_t none = 0;
    dc_view view;
    if (dc_registry()->release < DC_RELEASE(19, 0)) {
        DC_TRY(aoti_torch_new_uninitialized_tensor(out_tensor));
        return TSR_OK;
    }
    TSR_TRY(dc_tensor_kind(a, &view));
    return dc_tensor_empty(&view, 1, &none, view.dtype, out_tensor);
}

KERNEL(reduce_grad) {
    dc_tensor a = dc_take_tensor(stack[0]), made = NULL;
    UNUSED_COUNTS;
    dc_lock();
    tsr_status status = reduce(a, (int64_t)stack[1], (int64_t)stack[2]);
    dc_unlock();
    if (status == TSR_OK)
        status = nothing(a, &made);
    dc_tensor_release(a);
    if (status != TSR_OK)
        dc_throw("reduce_grad");
    stack[0] = dc_give_tensor(made);
}

KERNEL(reduce_grad_meta) {
    dc_tensor a = dc_take_tensor(stack[0]), made = NULL;
    UNUSED_COUNTS;
    tsr_status status = nothing(a, &made);
    dc_tensor_release(a);
    if (status != TSR_OK)
        dc_throw("reduce_grad");
    stack[0] = dc_give_tensor(made);
}

/* ---- free_tensors ---- */

static tsr_status free_large(dc_tensor tensor, int64_t threshold) {
    dc_view view;
    TSR_TRY(dc_tensor_view(tensor, &view));
    int64_t bytes =
        view.numel *
        (int64_t)dc_torch()->aoti_torch_dtype_element_size(view.dtype);
    return bytes < threshold ? TSR_OK : dc_tensor_empty_data(tensor);
}

static tsr_status free_all(const dc_value *tensors, size_t count) {
    dc_engine *engine = NULL;
    dc_lock();
    tsr_status status = dc_current(&engine);
    bool profiling = engine && engine->profiling;
    int64_t threshold = engine ? engine->options.free_threshold : 0;
    dc_unlock();
    for (size_t i = 0; i < count && status == TSR_OK && !profiling; i++)
        status = free_large(dc_take_tensor(tensors[i]), threshold);
    return status;
}

static void take_tensors(dc_value *stack, bool free_them) {
    dc_value *tensors = NULL;
    size_t count;
    tsr_status status = dc_take_list(stack[0], &tensors, &count);
    if (status == TSR_OK && free_them)
        status = free_all(tensors, count);
    for (size_t i = 0; i < count; i++)
        dc_tensor_release(dc_take_tensor(tensors[i]));
    tsr_free(tensors);
    if (status != TSR_OK)
        dc_throw("free_tensors");
}

KERNEL(free_tensors) {
    UNUSED_COUNTS;
    take_tensors(stack, true);
}

KERNEL(free_tensors_meta) {
    UNUSED_COUNTS;
    take_tensors(stack, false);
}

const dc_op dc_reduce_ops[] = {
    {"reduce_grad", reduce_grad, reduce_grad_meta},
    {"free_tensors", free_tensors, free_tensors_meta},
};
const size_t dc_reduce_op_count = sizeof dc_reduce_ops / sizeof *dc_reduce_ops;
