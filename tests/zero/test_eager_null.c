/* The eager front, given NULL: each call names itself and the argument, and
 * nothing has happened. */
#include "zero/eager_rank.h"

#define REFUSED(function, argument, ...)                                       \
    CHECK_FAILS(tsr_zero_##function(__VA_ARGS__), TSR_INVALID_ARGUMENT,        \
                "tsr_zero_" #function ": " argument " is NULL")

static void create(rank_context *context) {
    eager_rank rank;
    rank_open(&rank, context, &(rank_options){.kind = TSR_STREAM_INLINE});
    tsr_zero *zero = rank.zero; /* anything */
    tsr_allocator allocator = {heap_alloc, heap_free, &rank.heap};
    tsr_zero_options good = {.device = rank.device,
                             .gather_comm = rank.gather_comm,
                             .reduce_comm = rank.reduce_comm,
                             .kernels = rank.kernels,
                             .allocator = &allocator,
                             .settings = {.stage = 3}};
    tsr_zero_options bad = good;
    REFUSED(create, "out_zero", &good, NULL);
    REFUSED(create, "options", NULL, &zero);
    CHECK(!zero);
#define WITHOUT(field)                                                         \
    bad.field = NULL;                                                          \
    zero = rank.zero;                                                          \
    REFUSED(create, "options." #field, &bad, &zero);                           \
    CHECK(!zero);                                                              \
    bad = good
    WITHOUT(device);
    WITHOUT(gather_comm);
    WITHOUT(reduce_comm);
    WITHOUT(kernels);
#undef WITHOUT
    bad.allocator = &(tsr_allocator){NULL, heap_free, NULL};
    REFUSED(create, "options.allocator.alloc", &bad, &zero);
    bad.allocator = &(tsr_allocator){heap_alloc, NULL, NULL};
    REFUSED(create, "options.allocator.free", &bad, &zero);
    rank_close(&rank);
}

/* Every call that takes a tsr_zero and gives a status. */
static void without_zero(const eager_rank *rank, const test_param *param,
                         tsr_zero_binding *binding) {
    tsr_stream *stream = rank->stream;
    tsr_tensor tensor = param->desc.shard;
    int64_t id = param->desc.id;
    tsr_view view;
    void *out = NULL;
    REFUSED(register_param, "zero", NULL, &param->desc, stream);
    REFUSED(update_param_grad_buffer, "zero", NULL, id, tensor, stream);
    REFUSED(update_param_grad_slice, "zero", NULL, id, tensor, 0, 1, stream);
    REFUSED(update_param_shard, "zero", NULL, id, tensor);
    REFUSED(seal, "zero", NULL, stream);
    REFUSED(register_graph, "zero", NULL, 1, &id, 1);
    REFUSED(allgather_param, "zero", NULL, 1, id, TSR_F32, stream, &view);
    REFUSED(prefetch_params_fused, "zero", NULL, &id, NULL, 1, stream);
    REFUSED(wait_allgather, "zero", NULL, 1, id, stream);
    REFUSED(release_param, "zero", NULL, 1, id, 1, stream);
    REFUSED(wait_binding, "zero", NULL, binding, stream);
    REFUSED(release_binding, "zero", NULL, binding, 1, stream);
    REFUSED(reduce_grad, "zero", NULL, 1, id, param->gradient, stream);
    REFUSED(grad_slot, "zero", NULL, 1, id, stream, &out);
    REFUSED(start_backward, "zero", NULL, true);
    REFUSED(wait_grads_copied, "zero", NULL, stream);
    REFUSED(end_backward, "zero", NULL, stream);
    REFUSED(abort_step, "zero", NULL, stream);
    REFUSED(weights_changed, "zero", NULL, &id, 1, stream);
    REFUSED(set_persistent, "zero", NULL, id, stream);
    REFUSED(invalidate_gathered_param, "zero", NULL, id);
    REFUSED(clear_all_gathered_params, "zero", NULL);
    REFUSED(offload_tensor, "zero", NULL, 1, 7, &id, sizeof id, stream, &out);
    REFUSED(wait_offload, "zero", NULL, 1, 7, stream);
    REFUSED(reload_tensor, "zero", NULL, 1, 7, stream, &out);
    REFUSED(wait_reload, "zero", NULL, 1, 7, &id, stream, &out);
    REFUSED(free_tensors, "zero", NULL, &out, 1, stream);
    REFUSED(offload_parameter, "zero", NULL, id, stream);
    REFUSED(reload_parameter, "zero", NULL, id, stream);
    REFUSED(start_forward, "zero", NULL);
    REFUSED(end_forward, "zero", NULL);
    REFUSED(reset, "zero", NULL, stream);
    REFUSED(synchronize, "zero", NULL);
}

/* Every call that takes a stream. */
static void without_stream(const eager_rank *rank, const test_param *param,
                           tsr_zero_binding *binding) {
    tsr_zero *zero = rank->zero;
    tsr_tensor tensor = param->desc.shard;
    int64_t id = param->desc.id;
    tsr_view view;
    void *out = &view;
    REFUSED(register_param, "stream", zero, &param->desc, NULL);
    REFUSED(update_param_grad_buffer, "stream", zero, id, tensor, NULL);
    REFUSED(update_param_grad_slice, "stream", zero, id, tensor, 0, 1, NULL);
    REFUSED(seal, "stream", zero, NULL);
    REFUSED(allgather_param, "stream", zero, 1, id, TSR_F32, NULL, &view);
    REFUSED(prefetch_params_fused, "stream", zero, &id, NULL, 1, NULL);
    REFUSED(wait_allgather, "stream", zero, 1, id, NULL);
    REFUSED(release_param, "stream", zero, 1, id, 1, NULL);
    REFUSED(wait_binding, "stream", zero, binding, NULL);
    REFUSED(release_binding, "stream", zero, binding, 1, NULL);
    REFUSED(reduce_grad, "stream", zero, 1, id, param->gradient, NULL);
    REFUSED(grad_slot, "stream", zero, 1, id, NULL, &out);
    CHECK(!out);
    REFUSED(wait_grads_copied, "stream", zero, NULL);
    REFUSED(end_backward, "stream", zero, NULL);
    REFUSED(abort_step, "stream", zero, NULL);
    REFUSED(weights_changed, "stream", zero, &id, 1, NULL);
    REFUSED(set_persistent, "stream", zero, id, NULL);
    out = &view;
    REFUSED(offload_tensor, "stream", zero, 1, 7, &id, sizeof id, NULL, &out);
    CHECK(!out);
    REFUSED(wait_offload, "stream", zero, 1, 7, NULL);
    out = &view;
    REFUSED(reload_tensor, "stream", zero, 1, 7, NULL, &out);
    CHECK(!out);
    out = &view;
    REFUSED(wait_reload, "stream", zero, 1, 7, &id, NULL, &out);
    CHECK(!out);
    REFUSED(free_tensors, "stream", zero, &out, 1, NULL);
    REFUSED(offload_parameter, "stream", zero, id, NULL);
    REFUSED(reload_parameter, "stream", zero, id, NULL);
    REFUSED(reset, "stream", zero, NULL);
}

/* The others; a list of none may be NULL. */
static void without_others(const eager_rank *rank, const test_param *param) {
    tsr_zero *zero = rank->zero;
    tsr_stream *stream = rank->stream;
    int64_t id = param->desc.id;
    REFUSED(register_param, "param", zero, NULL, stream);
    REFUSED(register_graph, "ids", zero, 2, NULL, 1);
    REFUSED(allgather_param, "out_view", zero, 1, id, TSR_F32, stream, NULL);
    REFUSED(prefetch_params_fused, "ids", zero, NULL, NULL, 1, stream);
    REFUSED(wait_binding, "binding", zero, NULL, stream);
    REFUSED(release_binding, "binding", zero, NULL, 1, stream);
    REFUSED(grad_slot, "out_slot", zero, 1, id, stream, NULL);
    REFUSED(weights_changed, "ids", zero, NULL, 1, stream);
    REFUSED(free_tensors, "tensors", zero, NULL, 1, stream);
    CHECK_FAILS(tsr_zero_offload_tensor(zero, 1, 7, NULL, 8, stream, NULL),
                TSR_INVALID_ARGUMENT, "graph 1: tensor 7 is NULL");
    CHECK_FAILS(tsr_zero_reduce_grad(zero, 1, id, NULL, stream),
                TSR_INVALID_ARGUMENT, "parameter 4: its gradient is NULL");
    CHECK_OK(tsr_zero_register_graph(zero, 2, NULL, 0));
    CHECK_OK(tsr_zero_prefetch_params_fused(zero, NULL, NULL, 0, stream));
    CHECK_OK(tsr_zero_weights_changed(zero, NULL, 0, stream));
    CHECK_OK(tsr_zero_free_tensors(zero, NULL, 0, stream));
}

/* In the midst of a step, which then goes on. */
static void calls(rank_context *context) {
    eager_rank rank;
    test_param param = param_of(4, 5, 3);
    rank_open(&rank, context, &(rank_options){.kind = TSR_STREAM_QUEUED});
    param_register(&rank, &param);
    CHECK_OK(tsr_zero_register_graph(rank.zero, 1, &param.desc.id, 1));
    tsr_view view = gather_param(&rank, 1, &param, TSR_F32);
    CHECK_OK(tsr_zero_start_backward(rank.zero, true));
    reduce_call(&rank, 1, &param, 0);
    without_zero(&rank, &param, view.binding);
    without_stream(&rank, &param, view.binding);
    without_others(&rank, &param);
    wait_param(&rank, 1, &param);
    check_view(&rank, &param, &view, 0);
    release_param(&rank, 1, &param, 1);
    end_backward(&rank);
    check_grad(&rank, &param, 1, 1.0f / (float)rank.world);
    check_held(&rank, 0);
    rank_close(&rank);
    param_release(&param);
}

int main(void) {
    run_threads(1, create, NULL);
    run_threads(1, calls, NULL);
    run_threads(2, calls, NULL);
    return 0;
}
