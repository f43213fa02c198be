/* Rows at both ends of a language model: embeddings, positions, cross-entropy.
 */
#include "graph/op_rows.h"
#include "tessera/ops.h"

static bool is_tokens(const tsr_type *type) {
    return type->dtype == TSR_I32 && type->dims >= 1;
}

/* ---- embedding ---- */

static tsr_status embedding_infer(const tsr_op_view *view, tsr_type *outputs,
                                  size_t *out_count) {
    const tsr_type *tokens = &view->inputs[0], *weight = &view->inputs[1];
    TSR_REQUIRE(is_tokens(tokens) && tokens->dims < TSR_MAX_DIMS,
                "tokens must be i32");
    TSR_REQUIRE(weight->dims == 2 && tsr_is_real(weight),
                "the weight must be f32 or bf16 [V, C]");
    outputs[0] = *tokens;
    outputs[0].dtype = weight->dtype;
    outputs[0].shape[outputs[0].dims++] = weight->shape[1];
    *out_count = 1;
    return TSR_OK;
}

static tsr_status embedding_vjp(const tsr_vjp *vjp) {
    if (!vjp->wanted[1])
        return TSR_OK;
    tsr_attr rows = TSR_ATTR_INT("rows", vjp->view.inputs[1].shape[0]);
    tsr_value_id inputs[3] = {vjp->inputs[0], vjp->out_grads[0],
                              vjp->in_grads[1]};
    vjp->in_grads[1] =
        tsr_graph_node(vjp->graph, "embedding_grad", inputs, 3, &rows, 1, NULL);
    return tsr_graph_status(vjp->graph);
}

/* dweight [rows, C] of a dy [..., C]. */
static tsr_status rows_grad(const tsr_op_view *view, const tsr_type *dy,
                            size_t accumulator, tsr_type *outputs) {
    int64_t row_count = tsr_view_int(view, "rows", 0);
    TSR_REQUIRE(row_count >= 1,
                "the attribute rows is missing or not positive");
    TSR_REQUIRE(dy->dims >= 2 && tsr_is_real(dy),
                "dy must be f32 or bf16 [..., C]");
    outputs[0] = (tsr_type){
        .dtype = dy->dtype, .dims = 2, .shape = {row_count, tsr_last_dim(dy)}};
    TSR_REQUIRE(view->input_count <= accumulator ||
                    tsr_type_equal(&view->inputs[accumulator], &outputs[0]),
                "the accumulator is not like the weight");
    return TSR_OK;
}

static tsr_status embedding_grad_infer(const tsr_op_view *view,
                                       tsr_type *outputs, size_t *out_count) {
    const tsr_type *tokens = &view->inputs[0], *dy = &view->inputs[1];
    TSR_TRY(rows_grad(view, dy, 2, outputs));
    TSR_REQUIRE(is_tokens(tokens) &&
                    tsr_type_count(tokens) == tsr_row_count(dy),
                "dy needs one row a token");
    *out_count = 1;
    return TSR_OK;
}

static int alias_accumulator_2(const tsr_op_view *view, int output) {
    return output == 0 && view->input_count > 2 ? 2 : -1;
}
static int alias_accumulator_1(const tsr_op_view *view, int output) {
    return output == 0 && view->input_count > 1 ? 1 : -1;
}

/* ---- positions ---- */

static tsr_status position_infer(const tsr_op_view *view, tsr_type *outputs,
                                 size_t *out_count) {
    const tsr_type *x = &view->inputs[0], *weight = &view->inputs[1];
    TSR_REQUIRE(x->dims == 3 && tsr_is_real(x),
                "x must be f32 or bf16 [B, T, C]");
    TSR_REQUIRE(weight->dims == 2 && weight->dtype == x->dtype &&
                    weight->shape[1] == x->shape[2],
                "the weight must be %s [P, %lld]", tsr_dtype_name(x->dtype),
                (long long)x->shape[2]);
    TSR_REQUIRE(weight->shape[0] >= x->shape[1],
                "%lld tokens do not fit %lld positions", (long long)x->shape[1],
                (long long)weight->shape[0]);
    TSR_REQUIRE(view->input_count < 3 || (view->inputs[2].dtype == TSR_I32 &&
                                          tsr_is_vector(&view->inputs[2], 1)),
                "position must be i32 [1]");
    outputs[0] = *x;
    *out_count = 1;
    return TSR_OK;
}

static tsr_status position_vjp(const tsr_vjp *vjp) {
    TSR_REQUIRE(vjp->view.input_count == 2,
                "position_add has no gradient when it is given a position");
    if (vjp->wanted[0])
        tsr_vjp_add(vjp, 0, vjp->out_grads[0]);
    if (vjp->wanted[1]) {
        tsr_attr rows = TSR_ATTR_INT("rows", vjp->view.inputs[1].shape[0]);
        tsr_value_id inputs[2] = {vjp->out_grads[0], vjp->in_grads[1]};
        vjp->in_grads[1] = tsr_graph_node(vjp->graph, "position_grad", inputs,
                                          2, &rows, 1, NULL);
    }
    return tsr_graph_status(vjp->graph);
}

static tsr_status position_grad_infer(const tsr_op_view *view,
                                      tsr_type *outputs, size_t *out_count) {
    const tsr_type *dy = &view->inputs[0];
    TSR_TRY(rows_grad(view, dy, 1, outputs));
    TSR_REQUIRE(dy->dims == 3 && dy->shape[1] <= outputs[0].shape[0],
                "dy must be [B, T, C] with T <= rows");
    *out_count = 1;
    return TSR_OK;
}

/* ---- cross-entropy ---- */

static tsr_status check_logits(const tsr_op_view *view) {
    const tsr_type *logits = &view->inputs[0], *targets = &view->inputs[1];
    int64_t vocab = tsr_view_int(view, "vocab", 0);
    TSR_REQUIRE(logits->dims >= 2 && tsr_is_real(logits),
                "logits must be f32 or bf16 [..., V]");
    TSR_REQUIRE(is_tokens(targets) &&
                    tsr_type_count(targets) == tsr_row_count(logits),
                "targets must be i32, one a row");
    TSR_REQUIRE(vocab >= 1 && vocab <= tsr_last_dim(logits),
                "vocab is %lld, must be in [1, %lld]", (long long)vocab,
                (long long)tsr_last_dim(logits));
    return TSR_OK;
}

static tsr_status loss_infer(const tsr_op_view *view, tsr_type *outputs,
                             size_t *out_count) {
    TSR_TRY(check_logits(view));
    TSR_REQUIRE(tsr_is_vector(&view->inputs[2], 1) &&
                    tsr_is_float(&view->inputs[2]),
                "the loss must be f32 [1]");
    outputs[0] = view->inputs[2];
    outputs[1] = tsr_rows_of(&view->inputs[0], TSR_F32);
    *out_count = 2;
    return TSR_OK;
}

static int loss_alias(const tsr_op_view *view, int output) {
    (void)view;
    return output == 0 ? 2 : -1;
}

/* The loss ends the graph: its own gradient is 1. */
static tsr_status loss_vjp(const tsr_vjp *vjp) {
    tsr_attr attrs[2] = {
        TSR_ATTR_INT("vocab", tsr_view_int(&vjp->view, "vocab", 0)),
        TSR_ATTR_REAL("scale", tsr_view_real(&vjp->view, "scale", 1))};
    tsr_value_id inputs[3] = {vjp->inputs[0], vjp->inputs[1], vjp->outputs[1]};
    if (vjp->wanted[0])
        tsr_vjp_add(vjp, 0,
                    tsr_graph_node(vjp->graph, "cross_entropy_grad", inputs, 3,
                                   attrs, 2, NULL));
    return tsr_graph_status(vjp->graph);
}

static tsr_status loss_grad_infer(const tsr_op_view *view, tsr_type *outputs,
                                  size_t *out_count) {
    tsr_type rows = tsr_rows_of(&view->inputs[0], TSR_F32);
    TSR_TRY(check_logits(view));
    TSR_REQUIRE(tsr_type_equal(&view->inputs[2], &rows),
                "lse must be f32, one a row");
    outputs[0] = view->inputs[0];
    *out_count = 1;
    return TSR_OK;
}

static const tsr_op rows[] = {
    {.name = "embedding",
     .signature = "tokens i32[...], weight[V, C] -> y[..., C]",
     .min_inputs = 2,
     .max_inputs = 2,
     .outputs = 1,
     .infer = embedding_infer,
     .vjp = embedding_vjp},
    {.name = "embedding_grad",
     .signature = "tokens i32[...], dy[..., C], acc[V, C]? -> dweight[V, C]",
     .min_inputs = 2,
     .max_inputs = 3,
     .outputs = 1,
     .attrs = "rows",
     .infer = embedding_grad_infer,
     .must_alias = alias_accumulator_2},
    {.name = "position_add",
     .signature = "x[B, T, C], weight[P, C], position i32[1]? -> y[B, T, C]",
     .min_inputs = 2,
     .max_inputs = 3,
     .outputs = 1,
     .infer = position_infer,
     .vjp = position_vjp,
     .may_alias = tsr_alias_first},
    {.name = "position_grad",
     .signature = "dy[B, T, C], acc[P, C]? -> dweight[P, C]",
     .min_inputs = 1,
     .max_inputs = 2,
     .outputs = 1,
     .attrs = "rows",
     .infer = position_grad_infer,
     .must_alias = alias_accumulator_1},
    {.name = "cross_entropy",
     .signature =
         "logits[..., V], targets i32[...], loss[1] -> loss[1], lse[...]",
     .min_inputs = 3,
     .max_inputs = 3,
     .outputs = 2,
     .attrs = "vocab scale~ accumulate",
     .saved = 2,
     .infer = loss_infer,
     .vjp = loss_vjp,
     .must_alias = loss_alias},
    {.name = "cross_entropy_grad",
     .signature =
         "logits[..., V], targets i32[...], lse[...] -> dlogits[..., V]",
     .min_inputs = 3,
     .max_inputs = 3,
     .outputs = 1,
     .attrs = "vocab scale~",
     .infer = loss_grad_infer,
     .may_alias = tsr_alias_first},
};

tsr_op_rows tsr_token_ops(void) { return TSR_ROWS(rows); }

/* ---- builders ---- */

tsr_value_id tsr_embedding(tsr_graph *graph, tsr_value_id tokens,
                           tsr_value_id weight) {
    return tsr_graph_node(graph, "embedding", (tsr_value_id[]){tokens, weight},
                          2, NULL, 0, NULL);
}

tsr_value_id tsr_position_add(tsr_graph *graph, tsr_value_id x,
                              tsr_value_id weight, tsr_value_id position) {
    return tsr_graph_node(graph, "position_add",
                          (tsr_value_id[]){x, weight, position}, 3, NULL, 0,
                          NULL);
}

tsr_value_id tsr_cross_entropy(tsr_graph *graph, tsr_value_id logits,
                               tsr_value_id targets, tsr_value_id loss,
                               int64_t vocab, double scale) {
    tsr_attr attrs[3] = {TSR_ATTR_INT("vocab", vocab),
                         TSR_ATTR_REAL("scale", scale),
                         TSR_ATTR_INT("accumulate", 0)};
    return tsr_graph_node(graph, "cross_entropy",
                          (tsr_value_id[]){logits, targets, loss}, 3, attrs, 3,
                          NULL);
}
