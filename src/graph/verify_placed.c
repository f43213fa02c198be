/* Last stage: bytes. No two values that are alive together overlap, none is
 * reused before everybody who touched it is done, everything lies inside its
 * space, and the whole fits the budget. */
#include "base/text.h"
#include "graph/verify.h"

/* Bytes that a node or a value holds in a space. */
typedef struct extent {
    tsr_value_id value; /* none: a workspace */
    tsr_node_id maker;  /* first to write it */
    tsr_space space;
    size_t offset, bytes;
    int32_t touched[TSR_STREAM_CLASSES]; /* latest node of each stream that
                                            reads or writes it; -1 */
} extent;

typedef struct checker {
    const tsr_plan *plan;
    const tsr_graph *graph;
    tsr_order order;
    TSR_ARRAY(extent)
    extents;            /* of the section in hand, in the order of makers */
    int32_t *extent_of; /* (values) or -1 */
} checker;

/* Bytes of a value in its space: those of all ranks for a shard in shared
 * weights. */
static size_t bytes_in_space(const checker *self, const tsr_value *value) {
    size_t bytes = tsr_type_bytes(&value->type);
    if (value->role == TSR_ROLE_PARAM_SHARD && self->plan->target.shared)
        bytes *= (size_t)self->plan->target.world;
    return bytes;
}

/* ---- places ---- */

static tsr_space expected_space(const checker *self, tsr_value_id id) {
    const tsr_value *value = tsr_graph_value(self->graph, id);
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
    size_t bytes = bytes_in_space(self, value),
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

static bool overlap(size_t a, size_t a_bytes, size_t b, size_t b_bytes) {
    return a_bytes > 0 && b_bytes > 0 && a < b + b_bytes && b < a + a_bytes;
}

/* Declared values live for ever, so none may touch another. */
static tsr_status check_declared(const checker *self) {
    const tsr_graph *graph = self->graph;
    for (size_t v = 0; v < graph->values.count; v++) {
        const tsr_value *value = &graph->values.data[v];
        if (value->producer.index >= 0)
            continue;
        for (size_t w = 0; w < v; w++) {
            const tsr_value *other = &graph->values.data[w];
            if (other->producer.index >= 0 || other->space != value->space ||
                !overlap(value->offset, bytes_in_space(self, value),
                         other->offset, bytes_in_space(self, other)))
                continue;
            char label[TSR_LABEL_BYTES];
            return tsr_violation(self->plan, "two live values on one byte",
                                 TSR_NO_NODE, (tsr_value_id){(int32_t)v},
                                 "it overlaps %s",
                                 tsr_graph_value_label(
                                     graph, (tsr_value_id){(int32_t)w}, label));
        }
    }
    return TSR_OK;
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

/* ---- reuse ---- */

static tsr_status add_extent(checker *self, const extent *made) {
    TSR_TRY(TSR_ARRAY_RESERVE(&self->extents, 1));
    TSR_ARRAY_PUSH(&self->extents, *made);
    extent *kept = &self->extents.data[self->extents.count - 1];
    for (int s = 0; s < TSR_STREAM_CLASSES; s++)
        kept->touched[s] = -1;
    kept->touched[self->graph->nodes.data[made->maker.index].stream] =
        made->maker.index;
    return TSR_OK;
}

static bool is_transient(tsr_space space) {
    return space == TSR_SPACE_TRANSIENT || space == TSR_SPACE_GRADS;
}

static tsr_status collect(checker *self, int32_t first, int32_t end) {
    const tsr_graph *graph = self->graph;
    self->extents.count = 0;
    for (int32_t n = first; n < end; n++) {
        const tsr_node *node = &graph->nodes.data[n];
        for (int32_t i = 0; i < node->inputs.count; i++) {
            int32_t at =
                self->extent_of[tsr_graph_inputs(graph, node)[i].index];
            if (at >= 0)
                self->extents.data[at].touched[node->stream] = n;
        }
        for (int32_t i = 0; i < node->outputs.count; i++) {
            tsr_value_id id = tsr_graph_outputs(graph, node)[i];
            const tsr_value *value = tsr_graph_value(graph, id);
            if (!is_transient(value->space))
                continue;
            self->extent_of[id.index] = (int32_t)self->extents.count;
            TSR_TRY(add_extent(
                self, &(extent){.value = id,
                                .maker = {n},
                                .space = value->space,
                                .offset = value->offset,
                                .bytes = tsr_type_bytes(&value->type)}));
        }
        if (node->workspace_bytes > 0)
            TSR_TRY(
                add_extent(self, &(extent){.value = TSR_NO_VALUE,
                                           .maker = {n},
                                           .space = TSR_SPACE_TRANSIENT,
                                           .offset = node->workspace_offset,
                                           .bytes = node->workspace_bytes}));
    }
    return TSR_OK;
}

/* Whether `later` may lie on `earlier` although its maker reads it: the op's
 * row says so, and the place is the same. */
static bool takes_over(const checker *self, const extent *earlier,
                       const extent *later) {
    const tsr_graph *graph = self->graph;
    if (!tsr_has_value(later->value) || !tsr_has_value(earlier->value) ||
        later->offset != earlier->offset || later->bytes != earlier->bytes)
        return false;
    const tsr_node *node = tsr_graph_node_at(graph, later->maker);
    for (int32_t i = 0; i < node->outputs.count; i++)
        if (tsr_graph_outputs(graph, node)[i].index == later->value.index)
            return tsr_graph_must_alias(graph, node, i).index ==
                       earlier->value.index ||
                   tsr_graph_may_alias(graph, node, i).index ==
                       earlier->value.index;
    return false;
}

static tsr_status check_pair(const checker *self, const extent *earlier,
                             const extent *later) {
    bool in_place = takes_over(self, earlier, later);
    for (int s = 0; s < TSR_STREAM_CLASSES; s++) {
        tsr_node_id toucher = {earlier->touched[s]};
        char label[TSR_LABEL_BYTES], owner[TSR_LABEL_BYTES] = "a workspace";
        if (toucher.index < 0 ||
            (in_place && toucher.index == later->maker.index))
            continue;
        if (toucher.index != later->maker.index &&
            tsr_order_before(&self->order, toucher, later->maker))
            continue;
        if (tsr_has_value(earlier->value))
            tsr_graph_value_label(self->graph, earlier->value, owner);
        tsr_graph_node_label(self->graph, toucher, label);
        if (toucher.index >= later->maker.index)
            return tsr_violation(self->plan, "two live values on one byte",
                                 later->maker, later->value,
                                 "its bytes belong to %s, which %s still uses",
                                 owner, label);
        return tsr_violation(
            self->plan, "reused without wait", later->maker, later->value,
            "its bytes were those of %s; nothing orders it after %s on the %s "
            "stream",
            owner, label, tsr_stream_class_name((tsr_stream_class)s));
    }
    return TSR_OK;
}

static tsr_status check_workspace(const checker *self, tsr_node_id id,
                                  tsr_type_array *types) {
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
    TSR_TRY(tsr_graph_view(self->graph, node, types, &view));
    size_t needed =
        plan->target.workspace(plan->target.workspace_context, &view);
    if (node->workspace_bytes < needed)
        return tsr_violation(plan, "workspace too small", id, TSR_NO_VALUE,
                             "its kernel needs %zu bytes, %zu are planned",
                             needed, node->workspace_bytes);
    return TSR_OK;
}

static tsr_status check_section(checker *self, int32_t first, int32_t end) {
    TSR_TRY(collect(self, first, end));
    for (size_t b = 0; b < self->extents.count; b++) {
        const extent *later = &self->extents.data[b];
        for (size_t a = 0; a < b; a++) {
            const extent *earlier = &self->extents.data[a];
            if (earlier->space == later->space &&
                overlap(earlier->offset, earlier->bytes, later->offset,
                        later->bytes))
                TSR_TRY(check_pair(self, earlier, later));
        }
    }
    return TSR_OK;
}

static tsr_status check_budget(const tsr_plan *plan) {
    size_t needed = tsr_plan_rank_bytes(plan);
    char need[TSR_BYTES_TEXT], have[TSR_BYTES_TEXT];
    if (plan->target.memory == 0 || needed <= plan->target.memory)
        return TSR_OK;
    return tsr_error(
        TSR_OUT_OF_MEMORY,
        "the plan needs %zu bytes (%s) a rank, the budget is %zu (%s)", needed,
        tsr_format_bytes(needed, need), plan->target.memory,
        tsr_format_bytes(plan->target.memory, have));
}

tsr_status tsr_verify_placed(const tsr_plan *plan) {
    tsr_status status = TSR_OK;
    const tsr_graph *graph = plan->graph;
    checker self = {.plan = plan, .graph = graph};
    tsr_type_array types = {0};
    int32_t node_count = (int32_t)graph->nodes.count;

    TSR_TRY_GOTO(tsr_order_of(graph, &self.order));
    TSR_TRY_GOTO(tsr_alloc(graph->values.count, sizeof *self.extent_of,
                           (void **)&self.extent_of));
    for (size_t v = 0; v < graph->values.count; v++) {
        self.extent_of[v] = -1;
        TSR_TRY_GOTO(check_place(&self, (tsr_value_id){(int32_t)v}));
    }
    TSR_TRY_GOTO(check_declared(&self));
    for (int32_t n = 0; n < node_count; n++) {
        TSR_TRY_GOTO(check_aliases(&self, (tsr_node_id){n}));
        TSR_TRY_GOTO(check_workspace(&self, (tsr_node_id){n}, &types));
    }
    for (int32_t first = 0, end; first < node_count; first = end) {
        for (end = first;
             end < node_count && graph->nodes.data[end].section ==
                                     graph->nodes.data[first].section;)
            end++;
        TSR_TRY_GOTO(check_section(&self, first, end));
    }
    status = check_budget(plan);
done:
    TSR_ARRAY_FREE(&types);
    TSR_ARRAY_FREE(&self.extents);
    tsr_free(self.extent_of);
    tsr_order_release(&self.order);
    return status;
}
