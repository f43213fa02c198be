/* Rows of the ZeRO ops. They have no kernels: zero/core runs them over a
 * communicator, the executor runs copies between device and host.
 *
 * Each gives new values for what it orders, so that the order is plain data
 * flow: a use of a gathered copy takes the output of wait, an optimizer takes
 * shards that fence_readers gave, and so on. */
#include "graph/op_rows.h"

static tsr_status same_infer(const tsr_op_view *view, tsr_type *outputs,
                             size_t *out_count) {
    for (size_t i = 0; i < view->input_count; i++)
        outputs[i] = view->inputs[i];
    *out_count = view->input_count;
    return TSR_OK;
}

/* The whole parameter's shape cannot follow from the shard's: the named outputs
 * are taken as they are. */
static tsr_status gather_infer(const tsr_op_view *view, tsr_type *outputs,
                               size_t *out_count) {
    TSR_REQUIRE(view->output_count == view->input_count,
                "%zu shards give %zu gathered copies", view->input_count,
                view->output_count);
    for (size_t i = 0; i < view->input_count; i++) {
        TSR_REQUIRE(view->inputs[i].dims == 1 &&
                        view->outputs[i].dtype == view->inputs[i].dtype,
                    "shard %zu must be flat, of the gathered copy's dtype", i);
        outputs[i] = view->outputs[i];
    }
    *out_count = view->input_count;
    return TSR_OK;
}

static tsr_status none_infer(const tsr_op_view *view, tsr_type *outputs,
                             size_t *out_count) {
    (void)view;
    (void)outputs;
    *out_count = 0;
    return TSR_OK;
}

/* full_0 .. full_n-1, grad_shard_0 .. grad_shard_n-1, square_sum[n]. */
static tsr_status reduce_infer(const tsr_op_view *view, tsr_type *outputs,
                               size_t *out_count) {
    size_t count = view->input_count / 2;
    TSR_REQUIRE(
        view->input_count % 2 == 1,
        "needs as many gradient shards as full gradients, and square_sum");
    const tsr_type *square_sum = &view->inputs[2 * count];
    for (size_t i = 0; i < count; i++) {
        TSR_REQUIRE(tsr_is_real(&view->inputs[i]) &&
                        tsr_is_float(&view->inputs[count + i]) &&
                        view->inputs[count + i].dims == 1,
                    "gradient %zu must be f32 or bf16, its flat shard f32", i);
        outputs[i] = view->inputs[count + i];
    }
    TSR_REQUIRE(tsr_is_float(square_sum) &&
                    tsr_is_vector(square_sum, (int64_t)count),
                "square_sum must be f32 [%zu]", count);
    outputs[count] = *square_sum;
    *out_count = count + 1;
    return TSR_OK;
}

static int reduce_alias(const tsr_op_view *view, int output) {
    return (int)(view->input_count / 2) + output;
}

/* x, into?: one copy of x. */
static tsr_status move_infer(const tsr_op_view *view, tsr_type *outputs,
                             size_t *out_count) {
    TSR_REQUIRE(view->input_count == 1 ||
                    tsr_type_equal(&view->inputs[0], &view->inputs[1]),
                "what is written over must have the type of what comes");
    outputs[0] = view->inputs[0];
    *out_count = 1;
    return TSR_OK;
}

static int offload_alias(const tsr_op_view *view, int output) {
    (void)output;
    return view->input_count == 2 ? 1 : -1;
}

static const tsr_op rows[] = {
    {.name = "gather",
     .signature = "shard_0, ... -> gathered_0, ...",
     .min_inputs = 1,
     .outputs = -1,
     .flags = TSR_OP_VARIADIC | TSR_OP_COLLECTIVE,
     .stream = TSR_ON_GATHER,
     .infer = gather_infer},
    {.name = "wait",
     .signature = "gathered_0, ... -> gathered_0, ...",
     .min_inputs = 1,
     .outputs = -1,
     .flags = TSR_OP_VARIADIC | TSR_OP_ORDERING,
     .infer = same_infer,
     .must_alias = tsr_alias_same},
    {.name = "release",
     .signature = "gathered_0, ... ->",
     .min_inputs = 1,
     .outputs = 0,
     .flags = TSR_OP_VARIADIC | TSR_OP_ORDERING | TSR_OP_FREES,
     .infer = none_infer},
    {.name = "reduce",
     .signature = "full_0, ..., grad_shard_0, ..., square_sum[n] -> "
                  "grad_shard_0, ..., square_sum[n]",
     .min_inputs = 3,
     .outputs = -1,
     .attrs = "accumulate",
     .flags = TSR_OP_VARIADIC | TSR_OP_COLLECTIVE,
     .stream = TSR_ON_REDUCE,
     .infer = reduce_infer,
     .must_alias = reduce_alias},
    {.name = "all_reduce",
     .signature = "x_0, ... -> x_0, ...",
     .min_inputs = 1,
     .outputs = -1,
     .flags = TSR_OP_VARIADIC | TSR_OP_COLLECTIVE,
     .stream = TSR_ON_REDUCE,
     .infer = same_infer,
     .must_alias = tsr_alias_same},
    {.name = "fence_readers",
     .signature = "shard_0, ... -> shard_0, ...",
     .min_inputs = 1,
     .outputs = -1,
     .flags = TSR_OP_VARIADIC | TSR_OP_COLLECTIVE,
     .stream = TSR_ON_REDUCE,
     .infer = same_infer,
     .must_alias = tsr_alias_same},
    {.name = "fence_writers",
     .signature = "shard_0, ... -> shard_0, ...",
     .min_inputs = 1,
     .outputs = -1,
     .flags = TSR_OP_VARIADIC | TSR_OP_COLLECTIVE,
     .stream = TSR_ON_REDUCE,
     .infer = same_infer,
     .must_alias = tsr_alias_same},
    {.name = "offload",
     .signature = "x, into? -> x on the host",
     .min_inputs = 1,
     .max_inputs = 2,
     .outputs = 1,
     .flags = TSR_OP_OFFLOADS,
     .stream = TSR_ON_COPY_OUT,
     .infer = move_infer,
     .must_alias = offload_alias},
    {.name = "reload",
     .signature = "x on the host -> x",
     .min_inputs = 1,
     .max_inputs = 1,
     .outputs = 1,
     .flags = TSR_OP_RELOADS,
     .stream = TSR_ON_COPY_IN,
     .infer = move_infer},
};

tsr_op_rows tsr_zero_ops(void) { return TSR_ROWS(rows); }
