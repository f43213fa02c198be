/* Rows of the update: AdamW over shards, sums, the clipping factor. */
#include "graph/op_rows.h"

static tsr_status adamw_infer(const tsr_op_view *view, tsr_type *outputs,
                              size_t *out_count) {
    for (int i = 1; i < 4; i++)
        TSR_REQUIRE(tsr_is_float(&view->inputs[0]) &&
                        tsr_type_equal(&view->inputs[i], &view->inputs[0]),
                    "param, grad, m and v must be f32 of one shape");
    TSR_REQUIRE(tsr_is_vector(&view->inputs[4], 2) &&
                    tsr_is_float(&view->inputs[4]),
                "schedule must be f32 [2]");
    TSR_REQUIRE(tsr_is_vector(&view->inputs[5], 1) &&
                    tsr_is_float(&view->inputs[5]),
                "clip must be f32 [1]");
    outputs[0] = outputs[1] = outputs[2] = view->inputs[0];
    *out_count = 3;
    if (view->input_count < 7)
        return TSR_OK;
    outputs[3] = view->inputs[0];
    outputs[3].dtype = TSR_BF16;
    TSR_REQUIRE(tsr_type_equal(&view->inputs[6], &outputs[3]),
                "the twin must be bf16 of param's shape");
    *out_count = 4;
    return TSR_OK;
}

/* param, m, v and twin are inputs 0, 2, 3, 6. */
static int adamw_alias(const tsr_op_view *view, int output) {
    static const int inputs[] = {0, 2, 3, 6};
    (void)view;
    return output < 4 ? inputs[output] : -1;
}

/* About 20 operations an element. */
static void adamw_cost(const tsr_op_view *view, tsr_cost *cost) {
    cost->flops = 20.0 * (double)tsr_type_count(&view->inputs[0]);
}

static tsr_status sum_infer(const tsr_op_view *view, tsr_type *outputs,
                            size_t *out_count) {
    for (size_t i = 0; i < view->input_count; i++)
        TSR_REQUIRE(tsr_is_float(&view->inputs[i]), "every input must be f32");
    outputs[0] = tsr_vector(TSR_F32, 1);
    *out_count = 1;
    return TSR_OK;
}

static tsr_status clip_infer(const tsr_op_view *view, tsr_type *outputs,
                             size_t *out_count) {
    for (int i = 0; i < 2; i++)
        TSR_REQUIRE(tsr_is_vector(&view->inputs[i], 1) &&
                        tsr_is_float(&view->inputs[i]),
                    "square_sum and norm must be f32 [1]");
    TSR_REQUIRE(tsr_view_real(view, "max_norm", 0) >= 0,
                "max_norm must not be negative");
    outputs[0] = outputs[1] = view->inputs[0];
    *out_count = 2;
    return TSR_OK;
}

/* The norm is a state that the host reads after a walk. */
static int clip_alias(const tsr_op_view *view, int output) {
    (void)view;
    return output == 0 ? 1 : -1;
}

static const tsr_op rows[] = {
    {.name = "adamw",
     .signature = "param[n], grad[n], m[n], v[n], schedule[2], clip[1], "
                  "twin bf16[n]? -> param, m, v, twin?",
     .min_inputs = 6,
     .max_inputs = 7,
     .outputs = -1,
     .attrs = "beta1~ beta2~ eps~ weight_decay~",
     .infer = adamw_infer,
     .cost = adamw_cost,
     .must_alias = adamw_alias},
    {.name = "sum",
     .signature = "x_0, x_1, ... -> y[1]",
     .min_inputs = 1,
     .outputs = 1,
     .flags = TSR_OP_VARIADIC,
     .infer = sum_infer},
    {.name = "clip_scale",
     .signature = "square_sum[1], norm[1] -> norm[1], clip[1]",
     .min_inputs = 2,
     .max_inputs = 2,
     .outputs = 2,
     .attrs = "max_norm~",
     .infer = clip_infer,
     .must_alias = clip_alias},
};

tsr_op_rows tsr_optimizer_ops(void) { return TSR_ROWS(rows); }
