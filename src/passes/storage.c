/* Weights are laid out parameter after parameter; on shared memory the shards
 * of all ranks of one stand back to back. Shards that are kept on the host have
 * no bytes among them. */
#include "passes/storage.h"

#include "passes/rewrite.h"

static size_t aligned(const tsr_storages *self, size_t bytes) {
    return tsr_round_up(bytes, self->plan->target.alignment);
}

/* ---- fixed places ---- */

static tsr_status add_bytes(size_t *total, size_t bytes, const char *what) {
    /* Half the address space: sums of four spaces and a few more still cannot
     * wrap. */
    if (bytes > SIZE_MAX / 16 || *total > SIZE_MAX / 16 - bytes)
        return tsr_error(TSR_OUT_OF_MEMORY,
                         "the plan's %s do not fit any memory", what);
    *total += bytes;
    return TSR_OK;
}

static tsr_status place_weights(tsr_storages *self) {
    const tsr_target *target = &self->plan->target;
    size_t *total = &self->plan->bytes[TSR_SPACE_WEIGHTS];
    *total = 0;
    for (size_t p = 0; p < self->graph->params.count; p++) {
        const tsr_param *param = &self->graph->params.data[p];
        tsr_value_id shard = tsr_find_role(self->graph, TSR_ROLE_PARAM_SHARD,
                                           (tsr_param_id){(int32_t)p});
        if (tsr_has_value(shard) &&
            tsr_graph_value(self->graph, shard)->place == TSR_PLACE_HOST)
            continue;
        size_t shards = target->shared ? (size_t)target->world : 1;
        size_t bytes = (size_t)tsr_shard_count(param, target->world) *
                       tsr_dtype_bytes(param->type.dtype) * shards;
        self->param_offset[p] = *total;
        TSR_TRY(add_bytes(total, aligned(self, bytes), "weights"));
    }
    return TSR_OK;
}

static tsr_status place_declared(tsr_storages *self) {
    size_t *bytes = self->plan->bytes;
    bytes[TSR_SPACE_PERSISTENT] = bytes[TSR_SPACE_HOST_PERSISTENT] = 0;
    for (size_t v = 0; v < self->graph->values.count; v++) {
        tsr_value *value = &self->graph->values.data[v];
        bool on_host = value->place == TSR_PLACE_HOST;
        if (value->producer.index >= 0)
            continue;
        if (value->role == TSR_ROLE_PARAM_SHARD && !on_host) {
            value->space = TSR_SPACE_WEIGHTS;
            value->offset = self->param_offset[value->param.index];
            continue;
        }
        value->space =
            on_host ? TSR_SPACE_HOST_PERSISTENT : TSR_SPACE_PERSISTENT;
        size_t *total = &bytes[value->space];
        value->offset = *total;
        TSR_TRY(add_bytes(total, aligned(self, tsr_type_bytes(&value->type)),
                          "persistent values"));
    }
    return TSR_OK;
}

/* ---- storages ---- */

static tsr_status new_storage(tsr_storages *self, int32_t value,
                              tsr_storage made) {
    TSR_TRY(TSR_ARRAY_RESERVE(&self->all, 1));
    for (int s = 0; s < TSR_STREAM_CLASSES; s++)
        made.touched[s] = -1;
    self->storage_of[value] = (int32_t)self->all.count;
    TSR_ARRAY_PUSH(&self->all, made);
    return TSR_OK;
}

static void touch(tsr_storages *self, tsr_value_id value, int32_t n) {
    tsr_storage *at = &self->all.data[self->storage_of[value.index]];
    at->touched[self->graph->nodes.data[n].stream] = n;
    at->last = n > at->last ? n : at->last;
}

static tsr_space space_of(const tsr_value *value) {
    return value->place == TSR_PLACE_HOST      ? TSR_SPACE_HOST_TRANSIENT
           : value->role == TSR_ROLE_FULL_GRAD ? TSR_SPACE_GRADS
                                               : TSR_SPACE_TRANSIENT;
}

size_t tsr_storage_bytes(const tsr_plan *plan, const tsr_value *value) {
    const tsr_target *target = &plan->target;
    size_t bytes = tsr_type_bytes(&value->type);
    if (value->role == TSR_ROLE_GATHERED) {
        const tsr_param *param = tsr_graph_param_at(plan->graph, value->param);
        bytes = (size_t)tsr_shard_count(param, target->world) *
                (size_t)target->world * tsr_dtype_bytes(value->type.dtype);
    }
    return tsr_round_up(bytes, target->alignment);
}

static bool read_once(const tsr_graph *graph, const tsr_node *node,
                      tsr_value_id input) {
    int uses = 0;
    for (int32_t i = 0; i < node->inputs.count; i++)
        uses += tsr_graph_inputs(graph, node)[i].index == input.index;
    return uses == 1;
}

/* Whether output may take over the storage of `input`, read by node n: nobody
 * reads any of its values later, n itself does so as one input only, and every
 * node that touched it ends before n. */
static bool can_take_over(const tsr_storages *self, const tsr_order *order,
                          int32_t n, tsr_value_id input, tsr_value_id output) {
    const tsr_value *from = tsr_graph_value(self->graph, input),
                    *to = tsr_graph_value(self->graph, output);
    const tsr_storage *old = &self->all.data[self->storage_of[input.index]];
    if (old->fixed || old->space != space_of(to) ||
        from->role == TSR_ROLE_GATHERED ||
        tsr_type_bytes(&from->type) != tsr_type_bytes(&to->type) ||
        old->pending > 0 ||
        !read_once(self->graph, &self->graph->nodes.data[n], input))
        return false;
    for (int s = 0; s < TSR_STREAM_CLASSES; s++)
        if (old->touched[s] >= 0 && old->touched[s] != n &&
            !tsr_order_before(order, (tsr_node_id){old->touched[s]},
                              (tsr_node_id){n}))
            return false;
    return true;
}

static tsr_status assign_output(tsr_storages *self, const tsr_order *order,
                                int32_t n, int output) {
    const tsr_node *node = &self->graph->nodes.data[n];
    tsr_value_id id = tsr_outputs_of(self->graph, node)[output];
    const tsr_value *value = tsr_value_of(self->graph, id);
    tsr_value_id must = tsr_graph_must_alias(self->graph, node, output);
    tsr_value_id may = tsr_graph_may_alias(self->graph, node, output);
    if (tsr_has_value(must)) {
        self->storage_of[id.index] = self->storage_of[must.index];
    } else if (tsr_has_value(may) && can_take_over(self, order, n, may, id)) {
        self->storage_of[id.index] = self->storage_of[may.index];
    } else if (self->plan->target.gather_alias &&
               tsr_node_is(self->graph, node, "gather")) {
        TSR_TRY(new_storage(
            self, id.index,
            (tsr_storage){.space = TSR_SPACE_WEIGHTS,
                          .fixed = true,
                          .first = n,
                          .offset = self->param_offset[value->param.index]}));
    } else {
        TSR_TRY(new_storage(
            self, id.index,
            (tsr_storage){.space = space_of(value),
                          .first = n,
                          .last = n,
                          .bytes = tsr_storage_bytes(self->plan, value)}));
    }
    self->all.data[self->storage_of[id.index]].pending += self->reads[id.index];
    touch(self, id, n);
    return TSR_OK;
}

static tsr_status find_storages(tsr_storages *self) {
    tsr_status status = TSR_OK;
    tsr_graph *graph = self->graph;
    tsr_order order = {0};
    TSR_TRY_GOTO(tsr_order_create(graph, &order));
    for (int32_t n = 0; n < (int32_t)graph->nodes.count; n++)
        for (int32_t i = 0; i < graph->nodes.data[n].inputs.count; i++)
            self->reads[tsr_inputs_of(graph, &graph->nodes.data[n])[i].index]++;
    for (size_t v = 0; v < graph->values.count; v++)
        if (graph->values.data[v].producer.index < 0)
            TSR_TRY_GOTO(new_storage(
                self, (int32_t)v,
                (tsr_storage){.space = graph->values.data[v].space,
                              .fixed = true,
                              .offset = graph->values.data[v].offset}));
    for (int32_t n = 0; n < (int32_t)graph->nodes.count; n++) {
        const tsr_node *node = &graph->nodes.data[n];
        tsr_order_push(&order);
        for (int32_t i = 0; i < node->inputs.count; i++) {
            tsr_value_id input = tsr_inputs_of(graph, node)[i];
            touch(self, input, n);
            self->all.data[self->storage_of[input.index]].pending--;
        }
        for (int output = 0; output < node->outputs.count; output++)
            TSR_TRY_GOTO(assign_output(self, &order, n, output));
    }
done:
    tsr_order_release(&order);
    return status;
}

static tsr_status find_workspaces(tsr_storages *self) {
    const tsr_target *target = &self->plan->target;
    tsr_status status = TSR_OK;
    tsr_type_array types = {0};
    for (size_t n = 0; n < self->graph->nodes.count; n++) {
        tsr_node *node = &self->graph->nodes.data[n];
        tsr_op_view view;
        TSR_TRY_GOTO(tsr_graph_view(self->graph, node, &types, &view));
        node->workspace_bytes =
            target->workspace
                ? aligned(self,
                          target->workspace(target->workspace_context, &view))
                : 0;
    }
done:
    TSR_ARRAY_FREE(&types);
    return status;
}

/* ---- lifetimes ---- */

int32_t tsr_storage_kept_until(const tsr_storages *self, const tsr_storage *at,
                               int32_t section_end) {
    int32_t until = at->last;
    for (int s = TSR_ON_COMPUTE + 1; s < TSR_STREAM_CLASSES; s++) {
        if (at->touched[s] < 0)
            continue;
        int32_t next = at->touched[s] + 1;
        while (next < section_end &&
               self->graph->nodes.data[next].stream != (tsr_stream_class)s)
            next++;
        next = next < section_end ? next : section_end - 1;
        until = next > until ? next : until;
    }
    return until;
}

int32_t tsr_section_end(const tsr_graph *graph, int32_t first) {
    int32_t end = first;
    while (end < (int32_t)graph->nodes.count &&
           graph->nodes.data[end].section == graph->nodes.data[first].section)
        end++;
    return end;
}

void tsr_storages_alive(const tsr_storages *self, tsr_space space,
                        size_t *alive) {
    const tsr_graph *graph = self->graph;
    int32_t count = (int32_t)graph->nodes.count;
    memset(alive, 0, ((size_t)count + 1) * sizeof *alive);
    /* First what each node adds, wrapping where bytes go; then the sums. */
    for (size_t i = 0; i < self->all.count; i++) {
        const tsr_storage *at = &self->all.data[i];
        if (at->fixed || at->space != space)
            continue;
        int32_t end = tsr_section_end(graph, at->first);
        alive[at->first] += at->bytes;
        alive[tsr_storage_kept_until(self, at, end) + 1] -= at->bytes;
    }
    for (int32_t n = 1; n <= count; n++)
        alive[n] += alive[n - 1];
    for (int32_t n = 0; space == TSR_SPACE_TRANSIENT && n < count; n++)
        alive[n] += graph->nodes.data[n].workspace_bytes;
}

tsr_status tsr_storages_find(tsr_plan *plan, tsr_storages *self) {
    tsr_graph *graph = plan->graph;
    *self = (tsr_storages){.plan = plan, .graph = graph};
    TSR_TRY(tsr_alloc(graph->params.count, sizeof *self->param_offset,
                      (void **)&self->param_offset));
    TSR_TRY(tsr_alloc(graph->values.count, sizeof *self->storage_of,
                      (void **)&self->storage_of));
    TSR_TRY(tsr_alloc(graph->values.count, sizeof *self->reads,
                      (void **)&self->reads));
    TSR_TRY(place_weights(self));
    TSR_TRY(place_declared(self));
    TSR_TRY(find_storages(self));
    return find_workspaces(self);
}

void tsr_storages_release(tsr_storages *self) {
    TSR_ARRAY_FREE(&self->all);
    tsr_free(self->reads);
    tsr_free(self->storage_of);
    tsr_free(self->param_offset);
}
