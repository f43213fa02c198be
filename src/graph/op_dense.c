/* Rows of the layers between token and loss: linear, norm, activation, add. */
#include "graph/op_rows.h"
#include "tessera/ops.h"

/* ---- linear ---- */

/* Features in and out of a weight [I, O] or [O, I]. */
static tsr_status weight_dims(const tsr_op_view *view, const tsr_type *weight,
                              int64_t *in, int64_t *out) {
    int64_t layout = tsr_view_int(view, "weight_layout", TSR_WEIGHT_IN_OUT);
    TSR_REQUIRE(layout == TSR_WEIGHT_IN_OUT || layout == TSR_WEIGHT_OUT_IN,
                "weight_layout is %lld, must be 0 or 1", (long long)layout);
    TSR_REQUIRE(weight->dims == 2 && tsr_is_real(weight),
                "the weight must be f32 or bf16 with 2 dimensions");
    *in = weight->shape[layout == TSR_WEIGHT_IN_OUT ? 0 : 1];
    *out = weight->shape[layout == TSR_WEIGHT_IN_OUT ? 1 : 0];
    return TSR_OK;
}

/* Input 0 has the weight's dtype. */
static tsr_status like_weight(const tsr_op_view *view, const char *name) {
    tsr_dtype dtype = view->inputs[0].dtype, weight = view->inputs[1].dtype;
    TSR_REQUIRE(dtype == weight, "%s is %s, the weight %s: they must be alike",
                name, tsr_dtype_name(dtype), tsr_dtype_name(weight));
    return TSR_OK;
}

static tsr_status linear_infer(const tsr_op_view *view, tsr_type *outputs,
                               size_t *out_count) {
    const tsr_type *x = &view->inputs[0];
    int64_t in = 0, out = 0;
    TSR_TRY(weight_dims(view, &view->inputs[1], &in, &out));
    TSR_TRY(like_weight(view, "x"));
    TSR_REQUIRE(x->dims >= 1 && tsr_last_dim(x) == in,
                "x has %lld features, the weight takes %lld",
                (long long)tsr_last_dim(x), (long long)in);
    TSR_REQUIRE(
        view->input_count < 3 || (tsr_is_vector(&view->inputs[2], out) &&
                                  view->inputs[2].dtype == x->dtype),
        "the bias must be %s [%lld]", tsr_dtype_name(x->dtype), (long long)out);
    outputs[0] = *x;
    outputs[0].shape[x->dims - 1] = out;
    *out_count = 1;
    return TSR_OK;
}

static void linear_cost(const tsr_op_view *view, tsr_cost *cost) {
    cost->flops = 2.0 * (double)tsr_row_count(&view->inputs[0]) *
                  (double)tsr_type_count(&view->inputs[1]);
}

static tsr_status linear_vjp(const tsr_vjp *vjp) {
    tsr_value_id x = vjp->inputs[0], weight = vjp->inputs[1],
                 dy = vjp->out_grads[0];
    if (vjp->wanted[0])
        vjp->in_grads[0] = tsr_vjp_node(
            vjp, "linear_grad_input",
            (tsr_value_id[]){dy, weight, vjp->in_grads[0]}, 3, NULL);
    if (vjp->wanted[1])
        vjp->in_grads[1] =
            tsr_vjp_node(vjp, "linear_grad_weight",
                         (tsr_value_id[]){x, dy, vjp->in_grads[1]}, 3, NULL);
    if (vjp->view.input_count == 3 && vjp->wanted[2])
        vjp->in_grads[2] = tsr_graph_node(
            vjp->graph, "bias_grad", (tsr_value_id[]){dy, vjp->in_grads[2]}, 2,
            NULL, 0, NULL);
    return tsr_graph_status(vjp->graph);
}

static tsr_status linear_grad_input_infer(const tsr_op_view *view,
                                          tsr_type *outputs,
                                          size_t *out_count) {
    const tsr_type *dy = &view->inputs[0];
    int64_t in = 0, out = 0;
    TSR_TRY(weight_dims(view, &view->inputs[1], &in, &out));
    TSR_TRY(like_weight(view, "dy"));
    TSR_REQUIRE(dy->dims >= 1 && tsr_last_dim(dy) == out,
                "dy has %lld features, the weight gives %lld",
                (long long)tsr_last_dim(dy), (long long)out);
    outputs[0] = *dy;
    outputs[0].shape[dy->dims - 1] = in;
    TSR_REQUIRE(view->input_count < 3 ||
                    tsr_type_equal(&view->inputs[2], &outputs[0]),
                "the accumulator is not like dx");
    *out_count = 1;
    return TSR_OK;
}

static int alias_accumulator_2(const tsr_op_view *view, int output) {
    return output == 0 && view->input_count > 2 ? 2 : -1;
}
static int alias_accumulator_1(const tsr_op_view *view, int output) {
    return output == 0 && view->input_count > 1 ? 1 : -1;
}

static tsr_status linear_grad_weight_infer(const tsr_op_view *view,
                                           tsr_type *outputs,
                                           size_t *out_count) {
    const tsr_type *x = &view->inputs[0], *dy = &view->inputs[1];
    int64_t layout = tsr_view_int(view, "weight_layout", TSR_WEIGHT_IN_OUT);
    TSR_REQUIRE(tsr_is_real(x) && dy->dtype == x->dtype && x->dims >= 1 &&
                    dy->dims >= 1 && tsr_row_count(x) == tsr_row_count(dy),
                "x and dy must be f32, or both bf16, with as many rows");
    int64_t in = tsr_last_dim(x), out = tsr_last_dim(dy);
    outputs[0] = (tsr_type){.dtype = x->dtype, .dims = 2, .shape = {in, out}};
    if (layout == TSR_WEIGHT_OUT_IN)
        outputs[0] =
            (tsr_type){.dtype = x->dtype, .dims = 2, .shape = {out, in}};
    TSR_REQUIRE(view->input_count < 3 ||
                    tsr_type_equal(&view->inputs[2], &outputs[0]),
                "the accumulator is not like the weight");
    *out_count = 1;
    return TSR_OK;
}

static void linear_grad_weight_cost(const tsr_op_view *view, tsr_cost *cost) {
    cost->flops = 2.0 * (double)tsr_row_count(&view->inputs[0]) *
                  (double)tsr_type_count(&view->outputs[0]);
}

static tsr_status bias_grad_infer(const tsr_op_view *view, tsr_type *outputs,
                                  size_t *out_count) {
    const tsr_type *dy = &view->inputs[0];
    TSR_REQUIRE(dy->dims >= 1 && tsr_is_real(dy), "dy must be f32 or bf16");
    outputs[0] = tsr_vector(dy->dtype, tsr_last_dim(dy));
    TSR_REQUIRE(view->input_count < 2 ||
                    tsr_type_equal(&view->inputs[1], &outputs[0]),
                "the accumulator is not like the bias");
    *out_count = 1;
    return TSR_OK;
}

/* ---- layer norm ---- */

static tsr_status norm_infer(const tsr_op_view *view, tsr_type *outputs,
                             size_t *out_count) {
    const tsr_type *x = &view->inputs[0];
    TSR_REQUIRE(x->dims >= 1 && tsr_is_real(x), "x must be f32 or bf16");
    for (int i = 1; i < 3; i++)
        TSR_REQUIRE(tsr_is_vector(&view->inputs[i], tsr_last_dim(x)) &&
                        view->inputs[i].dtype == x->dtype,
                    "weight and bias must be %s [%lld]",
                    tsr_dtype_name(x->dtype), (long long)tsr_last_dim(x));
    outputs[0] = *x;
    outputs[1] = outputs[2] = tsr_rows_of(x, TSR_F32);
    *out_count = 3;
    return TSR_OK;
}

static tsr_status norm_vjp(const tsr_vjp *vjp) {
    tsr_value_id grads[3];
    tsr_value_id inputs[6] = {vjp->inputs[0],    vjp->inputs[1],
                              vjp->outputs[1],   vjp->outputs[2],
                              vjp->out_grads[0], vjp->in_grads[0]};
    tsr_graph_node(vjp->graph, "layer_norm_grad", inputs, 6, NULL, 0, grads);
    TSR_TRY(tsr_graph_status(vjp->graph));
    vjp->in_grads[0] = grads[0];
    for (int i = 1; i < 3; i++)
        if (vjp->wanted[i])
            tsr_vjp_add(vjp, i, grads[i]);
    return tsr_graph_status(vjp->graph);
}

static tsr_status norm_grad_infer(const tsr_op_view *view, tsr_type *outputs,
                                  size_t *out_count) {
    const tsr_type *x = &view->inputs[0];
    tsr_type rows = tsr_rows_of(x, TSR_F32);
    TSR_REQUIRE(
        x->dims >= 1 && tsr_is_real(x) &&
            tsr_is_vector(&view->inputs[1], tsr_last_dim(x)) &&
            view->inputs[1].dtype == x->dtype &&
            tsr_type_equal(&view->inputs[2], &rows) &&
            tsr_type_equal(&view->inputs[3], &rows) &&
            tsr_type_equal(&view->inputs[4], x) &&
            (view->input_count < 6 || tsr_type_equal(&view->inputs[5], x)),
        "weight, mean, rstd, dy or the accumulator do not fit x");
    outputs[0] = *x;
    outputs[1] = outputs[2] = view->inputs[1];
    *out_count = 3;
    return TSR_OK;
}

static int norm_grad_alias(const tsr_op_view *view, int output) {
    return output == 0 ? (view->input_count > 5 ? 5 : 4) : -1;
}

/* ---- elementwise ---- */

static tsr_status unary_infer(const tsr_op_view *view, tsr_type *outputs,
                              size_t *out_count) {
    TSR_REQUIRE(tsr_is_real(&view->inputs[0]), "x must be f32 or bf16");
    outputs[0] = view->inputs[0];
    *out_count = 1;
    return TSR_OK;
}

static tsr_status binary_infer(const tsr_op_view *view, tsr_type *outputs,
                               size_t *out_count) {
    TSR_REQUIRE(tsr_is_real(&view->inputs[0]) &&
                    tsr_type_equal(&view->inputs[0], &view->inputs[1]),
                "both inputs must be f32, or both bf16, of one shape");
    outputs[0] = view->inputs[0];
    *out_count = 1;
    return TSR_OK;
}

static tsr_status gelu_vjp(const tsr_vjp *vjp) {
    if (vjp->wanted[0])
        tsr_vjp_add(
            vjp, 0,
            tsr_vjp_node(vjp, "gelu_grad",
                         (tsr_value_id[]){vjp->inputs[0], vjp->out_grads[0]}, 2,
                         NULL));
    return tsr_graph_status(vjp->graph);
}

static int alias_second(const tsr_op_view *view, int output) {
    (void)view;
    return output == 0 ? 1 : -1;
}

static tsr_status add_vjp(const tsr_vjp *vjp) {
    for (int i = 0; i < 2; i++)
        if (vjp->wanted[i])
            tsr_vjp_add(vjp, i, vjp->out_grads[0]);
    return tsr_graph_status(vjp->graph);
}

static tsr_status store_infer(const tsr_op_view *view, tsr_type *outputs,
                              size_t *out_count) {
    TSR_REQUIRE(tsr_type_equal(&view->inputs[0], &view->inputs[1]),
                "x and state must be of one type");
    outputs[0] = view->inputs[1];
    *out_count = 1;
    return TSR_OK;
}

static bool can_cast(tsr_dtype dtype) {
    return dtype == TSR_F32 || dtype == TSR_BF16 || dtype == TSR_F16;
}

static tsr_status cast_infer(const tsr_op_view *view, tsr_type *outputs,
                             size_t *out_count) {
    int64_t dtype = tsr_view_int(view, "dtype", -1);
    TSR_REQUIRE(dtype >= 0 && dtype < TSR_DTYPE_COUNT &&
                    can_cast((tsr_dtype)dtype) &&
                    can_cast(view->inputs[0].dtype),
                "x and the attribute dtype must be f32, bf16 or f16");
    outputs[0] = view->inputs[0];
    outputs[0].dtype = (tsr_dtype)dtype;
    *out_count = 1;
    return TSR_OK;
}

static tsr_status cast_vjp(const tsr_vjp *vjp) {
    tsr_attr back = TSR_ATTR_INT("dtype", vjp->view.inputs[0].dtype);
    if (vjp->wanted[0])
        tsr_vjp_add(vjp, 0,
                    tsr_graph_node(vjp->graph, "cast", &vjp->out_grads[0], 1,
                                   &back, 1, NULL));
    return tsr_graph_status(vjp->graph);
}

static const tsr_op rows[] = {
    {.name = "linear",
     .signature = "x[..., I], weight, bias[O]? -> y[..., O]",
     .min_inputs = 2,
     .max_inputs = 3,
     .outputs = 1,
     .attrs = "weight_layout",
     .infer = linear_infer,
     .cost = linear_cost,
     .vjp = linear_vjp},
    {.name = "linear_grad_input",
     .signature = "dy[..., O], weight, acc[..., I]? -> dx[..., I]",
     .min_inputs = 2,
     .max_inputs = 3,
     .outputs = 1,
     .attrs = "weight_layout",
     .infer = linear_grad_input_infer,
     .cost = linear_cost,
     .may_alias = alias_accumulator_2},
    {.name = "linear_grad_weight",
     .signature = "x[..., I], dy[..., O], acc? -> dweight",
     .min_inputs = 2,
     .max_inputs = 3,
     .outputs = 1,
     .attrs = "weight_layout",
     .infer = linear_grad_weight_infer,
     .cost = linear_grad_weight_cost,
     .must_alias = alias_accumulator_2},
    {.name = "bias_grad",
     .signature = "dy[..., O], acc[O]? -> dbias[O]",
     .min_inputs = 1,
     .max_inputs = 2,
     .outputs = 1,
     .infer = bias_grad_infer,
     .must_alias = alias_accumulator_1},
    {.name = "layer_norm",
     .signature =
         "x[..., C], weight[C], bias[C] -> y[..., C], mean[...], rstd[...]",
     .min_inputs = 3,
     .max_inputs = 3,
     .outputs = 3,
     .attrs = "eps~",
     .saved = 6,
     .infer = norm_infer,
     .vjp = norm_vjp},
    {.name = "layer_norm_grad",
     .signature = "x[..., C], weight[C], mean[...], rstd[...], dy[..., C], "
                  "acc[..., C]? -> dx[..., C], dweight[C], dbias[C]",
     .min_inputs = 5,
     .max_inputs = 6,
     .outputs = 3,
     .infer = norm_grad_infer,
     .may_alias = norm_grad_alias},
    {.name = "gelu",
     .signature = "x[...] -> y[...]",
     .min_inputs = 1,
     .max_inputs = 1,
     .outputs = 1,
     .infer = unary_infer,
     .vjp = gelu_vjp,
     .may_alias = tsr_alias_first},
    {.name = "gelu_grad",
     .signature = "x[...], dy[...] -> dx[...]",
     .min_inputs = 2,
     .max_inputs = 2,
     .outputs = 1,
     .infer = binary_infer,
     .may_alias = alias_second},
    {.name = "add",
     .signature = "a[...], b[...] -> y[...]",
     .min_inputs = 2,
     .max_inputs = 2,
     .outputs = 1,
     .infer = binary_infer,
     .vjp = add_vjp,
     .may_alias = tsr_alias_first},
    {.name = "cast",
     .signature = "x[...] -> y[...]",
     .min_inputs = 1,
     .max_inputs = 1,
     .outputs = 1,
     .attrs = "dtype",
     .infer = cast_infer,
     .vjp = cast_vjp},
    {.name = "store",
     .signature = "x[...], state[...] -> state[...]",
     .min_inputs = 2,
     .max_inputs = 2,
     .outputs = 1,
     .infer = store_infer,
     .must_alias = alias_second},
};

tsr_op_rows tsr_dense_ops(void) { return TSR_ROWS(rows); }

/* ---- builders ---- */

tsr_value_id tsr_linear(tsr_graph *graph, tsr_value_id x, tsr_value_id weight,
                        tsr_value_id bias, tsr_weight_layout layout) {
    return tsr_graph_node(graph, "linear", (tsr_value_id[]){x, weight, bias}, 3,
                          &TSR_ATTR_INT("weight_layout", layout), 1, NULL);
}

tsr_value_id tsr_layer_norm(tsr_graph *graph, tsr_value_id x,
                            tsr_value_id weight, tsr_value_id bias,
                            double eps) {
    return tsr_graph_node(graph, "layer_norm",
                          (tsr_value_id[]){x, weight, bias}, 3,
                          &TSR_ATTR_REAL("eps", eps), 1, NULL);
}

tsr_value_id tsr_gelu(tsr_graph *graph, tsr_value_id x) {
    return tsr_graph_node(graph, "gelu", &x, 1, NULL, 0, NULL);
}

tsr_value_id tsr_cast(tsr_graph *graph, tsr_value_id x, tsr_dtype dtype) {
    return tsr_graph_node(graph, "cast", &x, 1, &TSR_ATTR_INT("dtype", dtype),
                          1, NULL);
}

tsr_value_id tsr_store(tsr_graph *graph, tsr_value_id x, tsr_value_id state) {
    return tsr_graph_node(graph, "store", (tsr_value_id[]){x, state}, 2, NULL,
                          0, NULL);
}

tsr_value_id tsr_add(tsr_graph *graph, tsr_value_id a, tsr_value_id b) {
    return tsr_graph_node(graph, "add", (tsr_value_id[]){a, b}, 2, NULL, 0,
                          NULL);
}
