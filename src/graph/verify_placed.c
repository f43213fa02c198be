/* Last stage: bytes. Everything lies where its role belongs, inside its space,
 * declared values apart from each other, and the whole fits the budget.
 * verify_reuse.c goes on with bytes that values share one after the other. */
#include <stdlib.h>

#include "base/text.h"
#include "graph/lineage.h"
#include "graph/verify.h"

typedef struct checker {
    const tsr_plan *plan;
    const tsr_graph *graph;
    tsr_lineage *lineages; /* (values) */
    tsr_type_array types;
} checker;

size_t tsr_bytes_in_space(const tsr_plan *plan, const tsr_value *value) {
    size_t shard, world = (size_t)plan->target.world;
    if (value->role == TSR_ROLE_PARAM_SHARD)
        return tsr_type_bytes(&value->type) *
               (plan->target.shared && value->space == TSR_SPACE_WEIGHTS ? world
                                                                         : 1);
    if (value->role != TSR_ROLE_GATHERED || plan->target.gather_alias)
        return tsr_type_bytes(&value->type);
    shard = (size_t)tsr_shard_count(
        &plan->graph->params.data[value->param.index], plan->target.world);
    return shard * world * tsr_dtype_bytes(value->type.dtype);
}

/* ---- places ---- */

static tsr_space expected_space(const checker *self, tsr_value_id id) {
    const tsr_value *value = tsr_graph_value(self->graph, id);
    bool lives_on = self->lineages[id.index].storage >= 0;
    if (value->place == TSR_PLACE_HOST)
        return lives_on ? TSR_SPACE_HOST_PERSISTENT : TSR_SPACE_HOST_TRANSIENT;
    if (self->lineages[id.index].origin >= 0 && !lives_on)
        return TSR_SPACE_TRANSIENT; /* a reloaded copy */
    switch (value->role) {
    case TSR_ROLE_PARAM_SHARD:
        return TSR_SPACE_WEIGHTS;
    case TSR_ROLE_GATHERED:
        return self->plan->target.gather_alias ? TSR_SPACE_WEIGHTS
                                               : TSR_SPACE_TRANSIENT;
    case TSR_ROLE_FULL_GRAD:
        return TSR_SPACE_GRADS;
    case TSR_ROLE_ACTIVATION:
        return TSR_SPACE_TRANSIENT;
    default:
        return TSR_SPACE_PERSISTENT;
    }
}

static tsr_status check_place(const checker *self, tsr_value_id id) {
    const tsr_value *value = tsr_graph_value(self->graph, id);
    const tsr_plan *plan = self->plan;
    size_t bytes = tsr_bytes_in_space(plan, value),
           room = plan->bytes[value->space];
    if (value->space != expected_space(self, id))
        return tsr_violation(plan, "wrong space", value->producer, id,
                             "a %s belongs into %s, not %s",
                             tsr_role_name(value->role),
                             tsr_space_name(expected_space(self, id)),
                             tsr_space_name(value->space));
    if (value->offset % plan->target.alignment != 0)
        return tsr_violation(plan, "misaligned", value->producer, id,
                             "offset %zu is not a multiple of %zu",
                             value->offset, plan->target.alignment);
    if (value->offset > room || bytes > room - value->offset)
        return tsr_violation(plan, "out of bounds", value->producer, id,
                             "its bytes [%zu, +%zu) exceed the %zu of %s",
                             value->offset, bytes, room,
                             tsr_space_name(value->space));
    return TSR_OK;
}

/* ---- declared values ---- */

/* qsort has no context, so that it sorts copies of the places. */
typedef struct place {
    tsr_space space;
    size_t offset, bytes;
    tsr_value_id value;
} place;

static int by_place(const void *left, const void *right) {
    const place *a = left, *b = right;
    if (a->space != b->space)
        return a->space < b->space ? -1 : 1;
    if (a->offset != b->offset)
        return a->offset < b->offset ? -1 : 1;
    return a->value.index - b->value.index;
}

/* Declared values live for ever, so none may touch another. */
static tsr_status check_declared(const tsr_plan *plan) {
    tsr_status status = TSR_OK;
    const tsr_graph *graph = plan->graph;
    place *places = NULL; /* (count) of declared values */
    size_t count = 0;
    char label[TSR_LABEL_BYTES];
    TSR_TRY_GOTO(
        tsr_alloc(graph->values.count, sizeof *places, (void **)&places));
    for (size_t v = 0; v < graph->values.count; v++) {
        const tsr_value *value = &graph->values.data[v];
        if (value->producer.index < 0)
            places[count++] = (place){value->space,
                                      value->offset,
                                      tsr_bytes_in_space(plan, value),
                                      {(int32_t)v}};
    }
    if (count > 0)
        qsort(places, count, sizeof *places, by_place);
    for (size_t i = 1; i < count; i++) {
        const place *below = &places[i - 1], *at = &places[i];
        if (below->space != at->space ||
            at->offset - below->offset >= below->bytes)
            continue;
        status =
            tsr_violation(plan, "two live values on one byte", TSR_NO_NODE,
                          at->value, "it overlaps %s",
                          tsr_graph_value_label(graph, below->value, label));
        goto done;
    }
done:
    tsr_free(places);
    return status;
}

/* What must be in place is, and a gather that aliases gives the weights
 * themselves. */
static tsr_status check_aliases(const checker *self, tsr_node_id id) {
    const tsr_graph *graph = self->graph;
    const tsr_node *node = tsr_graph_node_at(graph, id);
    for (int32_t i = 0; i < node->outputs.count; i++) {
        tsr_value_id output = tsr_graph_outputs(graph, node)[i],
                     must = tsr_graph_must_alias(graph, node, i);
        const tsr_value *value = tsr_graph_value(graph, output);
        if (self->plan->target.gather_alias &&
            tsr_node_is(graph, node, "gather"))
            must = tsr_graph_inputs(graph, node)[i];
        if (!tsr_has_value(must))
            continue;
        const tsr_value *base = tsr_graph_value(graph, must);
        if (base->space != value->space || base->offset != value->offset)
            return tsr_violation(self->plan, "not in place", id, output,
                                 "it must lie where input %%%d lies",
                                 must.index);
    }
    return TSR_OK;
}

/* ---- workspaces, budget ---- */

static tsr_status check_workspace(checker *self, tsr_node_id id) {
    const tsr_plan *plan = self->plan;
    const tsr_node *node = tsr_graph_node_at(self->graph, id);
    size_t room = plan->bytes[TSR_SPACE_TRANSIENT];
    if (node->workspace_bytes > room ||
        node->workspace_offset > room - node->workspace_bytes)
        return tsr_violation(
            plan, "out of bounds", id, TSR_NO_VALUE,
            "its workspace [%zu, +%zu) exceeds the %zu of transient",
            node->workspace_offset, node->workspace_bytes, room);
    if (node->workspace_offset % plan->target.alignment != 0)
        return tsr_violation(
            plan, "misaligned", id, TSR_NO_VALUE,
            "its workspace's offset %zu is not a multiple of %zu",
            node->workspace_offset, plan->target.alignment);
    if (!plan->target.workspace)
        return TSR_OK;
    tsr_op_view view;
    TSR_TRY(tsr_graph_view(self->graph, node, &self->types, &view));
    size_t needed =
        plan->target.workspace(plan->target.workspace_context, &view);
    if (node->workspace_bytes < needed)
        return tsr_violation(plan, "workspace too small", id, TSR_NO_VALUE,
                             "its kernel needs %zu bytes, %zu are planned",
                             needed, node->workspace_bytes);
    return TSR_OK;
}

static tsr_status check_budget(size_t needed, size_t budget,
                               const char *where) {
    char need[TSR_BYTES_TEXT], have[TSR_BYTES_TEXT];
    if (budget == 0 || needed <= budget)
        return TSR_OK;
    return tsr_error(
        TSR_OUT_OF_MEMORY,
        "the plan needs %zu bytes (%s) a rank%s, the budget is %zu (%s)",
        needed, tsr_format_bytes(needed, need), where, budget,
        tsr_format_bytes(budget, have));
}

tsr_status tsr_verify_placed(const tsr_plan *plan) {
    tsr_status status = TSR_OK;
    const tsr_graph *graph = plan->graph;
    checker self = {.plan = plan, .graph = graph};
    TSR_TRY_GOTO(tsr_lineages(graph, &self.lineages));
    for (int32_t v = 0; v < (int32_t)graph->values.count; v++)
        TSR_TRY_GOTO(check_place(&self, (tsr_value_id){v}));
    TSR_TRY_GOTO(check_declared(plan));
    for (int32_t n = 0; n < (int32_t)graph->nodes.count; n++) {
        TSR_TRY_GOTO(check_aliases(&self, (tsr_node_id){n}));
        TSR_TRY_GOTO(check_workspace(&self, (tsr_node_id){n}));
    }
    TSR_TRY_GOTO(tsr_verify_reuse(plan));
    TSR_TRY_GOTO(
        check_budget(tsr_plan_rank_bytes(plan), plan->target.memory, ""));
    status = check_budget(tsr_plan_rank_host_bytes(plan),
                          plan->target.host_memory, " on the host");
done:
    TSR_ARRAY_FREE(&self.types);
    tsr_free(self.lineages);
    return status;
}
