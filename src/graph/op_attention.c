/* Rows of causal attention, with grouped key/value heads, and of its cached
 * form. */
#include "graph/op_rows.h"
#include "tessera/ops.h"

/* Head size of packed qkv [B, T, (H + 2G) * D]. */
static tsr_status head_size(const tsr_op_view *view, int64_t *out_heads,
                            int64_t *out_kv_heads, int64_t *out_size) {
    const tsr_type *qkv = &view->inputs[0];
    int64_t heads = tsr_view_int(view, "heads", 0),
            kv_heads = tsr_view_int(view, "kv_heads", heads);
    TSR_REQUIRE(
        heads >= 1 && kv_heads >= 1 && heads % kv_heads == 0,
        "%lld heads must be a positive multiple of %lld key/value heads",
        (long long)heads, (long long)kv_heads);
    TSR_REQUIRE(qkv->dims == 3 && tsr_is_real(qkv) &&
                    qkv->shape[2] % (heads + 2 * kv_heads) == 0,
                "qkv must be f32 or bf16 [B, T, (%lld + 2 * %lld) * D]",
                (long long)heads, (long long)kv_heads);
    *out_heads = heads;
    *out_kv_heads = kv_heads;
    *out_size = qkv->shape[2] / (heads + 2 * kv_heads);
    return TSR_OK;
}

static tsr_status attention_infer(const tsr_op_view *view, tsr_type *outputs,
                                  size_t *out_count) {
    const tsr_type *qkv = &view->inputs[0];
    int64_t heads = 0, kv_heads = 0, size = 0;
    TSR_TRY(head_size(view, &heads, &kv_heads, &size));
    outputs[0] = *qkv;
    outputs[0].shape[2] = heads * size;
    outputs[1] = (tsr_type){.dtype = TSR_F32,
                            .dims = 3,
                            .shape = {qkv->shape[0], heads, qkv->shape[1]}};
    *out_count = 2;
    return TSR_OK;
}

/* Two products of B * H * T * T/2 * D multiply-adds: scores and values (the
 * causal half). */
static void attention_cost(const tsr_op_view *view, tsr_cost *cost) {
    int64_t heads = 0, kv_heads = 0, size = 0;
    if (head_size(view, &heads, &kv_heads, &size) != TSR_OK)
        return;
    double tokens = (double)view->inputs[0].shape[1];
    cost->flops = 2.0 * (double)view->inputs[0].shape[0] *
                  (double)(heads * size) * tokens * tokens;
}

/* Five such products: scores again, and the gradients of values, probabilities,
 * queries, keys. */
static void attention_grad_cost(const tsr_op_view *view, tsr_cost *cost) {
    attention_cost(view, cost);
    cost->flops *= 2.5;
}

static tsr_status attention_vjp(const tsr_vjp *vjp) {
    tsr_value_id inputs[4] = {vjp->inputs[0], vjp->outputs[0], vjp->outputs[1],
                              vjp->out_grads[0]};
    if (vjp->wanted[0])
        tsr_vjp_add(vjp, 0,
                    tsr_vjp_node(vjp, "attention_grad", inputs, 4, NULL));
    return tsr_graph_status(vjp->graph);
}

static tsr_status attention_grad_infer(const tsr_op_view *view,
                                       tsr_type *outputs, size_t *out_count) {
    tsr_type forward[2];
    TSR_TRY(attention_infer(view, forward, out_count));
    TSR_REQUIRE(tsr_type_equal(&view->inputs[1], &forward[0]) &&
                    tsr_type_equal(&view->inputs[2], &forward[1]) &&
                    tsr_type_equal(&view->inputs[3], &forward[0]),
                "y, lse or dy do not fit qkv");
    outputs[0] = view->inputs[0];
    *out_count = 1;
    return TSR_OK;
}

static tsr_status cached_infer(const tsr_op_view *view, tsr_type *outputs,
                               size_t *out_count) {
    const tsr_type *qkv = &view->inputs[0], *cache = &view->inputs[1];
    int64_t heads = 0, kv_heads = 0, size = 0;
    TSR_TRY(head_size(view, &heads, &kv_heads, &size));
    TSR_REQUIRE(qkv->shape[1] == 1,
                "the cached form takes one token at a time");
    TSR_REQUIRE(cache->dims == 4 && cache->dtype == qkv->dtype &&
                    cache->shape[0] == qkv->shape[0] &&
                    cache->shape[1] == kv_heads && cache->shape[3] == size &&
                    tsr_type_equal(cache, &view->inputs[2]),
                "the caches must be %s [%lld, %lld, P, %lld]",
                tsr_dtype_name(qkv->dtype), (long long)qkv->shape[0],
                (long long)kv_heads, (long long)size);
    TSR_REQUIRE(view->inputs[3].dtype == TSR_I32 &&
                    tsr_is_vector(&view->inputs[3], 1),
                "position must be i32 [1]");
    outputs[0] = *qkv;
    outputs[0].shape[2] = heads * size;
    outputs[1] = outputs[2] = *cache;
    *out_count = 3;
    return TSR_OK;
}

static int cached_alias(const tsr_op_view *view, int output) {
    (void)view;
    return output == 0 ? -1 : output;
}

static const tsr_op rows[] = {
    {.name = "attention",
     .signature = "qkv[B, T, (H + 2G) * D] -> y[B, T, H * D], lse[B, H, T]",
     .min_inputs = 1,
     .max_inputs = 1,
     .outputs = 2,
     .attrs = "heads kv_heads",
     .saved = 2,
     .infer = attention_infer,
     .cost = attention_cost,
     .vjp = attention_vjp},
    {.name = "attention_grad",
     .signature = "qkv, y, lse, dy -> dqkv",
     .min_inputs = 4,
     .max_inputs = 4,
     .outputs = 1,
     .attrs = "heads kv_heads",
     .infer = attention_grad_infer,
     .cost = attention_grad_cost},
    {.name = "attention_cached",
     .signature = "qkv[B, 1, (H + 2G) * D], k[B, G, P, D], v[B, G, P, D], "
                  "position i32[1] -> y[B, 1, H * D], k, v",
     .min_inputs = 4,
     .max_inputs = 4,
     .outputs = 3,
     .attrs = "heads kv_heads",
     .infer = cached_infer,
     .must_alias = cached_alias},
};

tsr_op_rows tsr_attention_ops(void) { return TSR_ROWS(rows); }

/* ---- builders ---- */

tsr_value_id tsr_attention(tsr_graph *graph, tsr_value_id qkv, int heads,
                           int kv_heads) {
    tsr_attr attrs[2] = {TSR_ATTR_INT("heads", heads),
                         TSR_ATTR_INT("kv_heads", kv_heads)};
    return tsr_graph_node(graph, "attention", &qkv, 1, attrs, 2, NULL);
}

tsr_value_id tsr_attention_cached(tsr_graph *graph, tsr_value_id qkv,
                                  tsr_value_id k_cache, tsr_value_id v_cache,
                                  tsr_value_id position, int heads,
                                  int kv_heads) {
    tsr_attr attrs[2] = {TSR_ATTR_INT("heads", heads),
                         TSR_ATTR_INT("kv_heads", kv_heads)};
    return tsr_graph_node(graph, "attention_cached",
                          (tsr_value_id[]){qkv, k_cache, v_cache, position}, 4,
                          attrs, 2, NULL);
}
