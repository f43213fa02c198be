/* Gives every value its bytes.
 *
 * Values that share memory form one *storage*: what an op must write in place,
 * what it may and can. A storage of a section is alive from the node that first
 * writes it to the last that touches it; when that one runs on another stream
 * than compute, a little longer: to the next node of that stream, so that
 * compute need not wait for it at once (the double buffer of gradients on the
 * wire). Where bytes change hands between streams, the new owner's first node
 * is made to wait for the old owner's last.
 *
 * Weights are laid out parameter after parameter; on shared memory the shards
 * of all ranks of one stand back to back. */
#include "graph/order.h"
#include "passes/pack.h"
#include "passes/rewrite.h"
#include "tessera/passes.h"

typedef struct storage {
    tsr_space space;
    bool fixed; /* declared, or a gather that aliases the weights: placed
                   outside the transient spaces */
    int32_t first, last;
    int32_t touched[TSR_STREAM_CLASSES]; /* latest node of each stream that
                                            reads or writes it; -1 */
    int32_t pending; /* reads of its values by nodes not yet passed */
    size_t bytes, offset;
} storage;

typedef struct planner {
    tsr_plan *plan;
    tsr_graph *graph;
    size_t *param_offset; /* (params) in WEIGHTS */
    int32_t *storage_of;  /* (values) */
    int32_t *reads;       /* (values) how often nodes read it */
    TSR_ARRAY(storage) storages;
    TSR_ARRAY(tsr_block) blocks;
    TSR_ARRAY(int32_t)
    block_of; /* (blocks) storage, or -1 - node for a workspace */
} planner;

static size_t aligned(const planner *self, size_t bytes) {
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

static tsr_status place_weights(planner *self) {
    const tsr_target *target = &self->plan->target;
    size_t *total = &self->plan->bytes[TSR_SPACE_WEIGHTS];
    *total = 0;
    for (size_t p = 0; p < self->graph->params.count; p++) {
        const tsr_param *param = &self->graph->params.data[p];
        size_t shards = target->shared ? (size_t)target->world : 1;
        size_t bytes = (size_t)tsr_shard_count(param, target->world) *
                       tsr_dtype_bytes(param->type.dtype) * shards;
        self->param_offset[p] = *total;
        TSR_TRY(add_bytes(total, aligned(self, bytes), "weights"));
    }
    return TSR_OK;
}

static tsr_status place_declared(planner *self) {
    size_t *total = &self->plan->bytes[TSR_SPACE_PERSISTENT];
    *total = 0;
    for (size_t v = 0; v < self->graph->values.count; v++) {
        tsr_value *value = &self->graph->values.data[v];
        if (value->producer.index >= 0)
            continue;
        if (value->role == TSR_ROLE_PARAM_SHARD) {
            value->space = TSR_SPACE_WEIGHTS;
            value->offset = self->param_offset[value->param.index];
            continue;
        }
        value->space = TSR_SPACE_PERSISTENT;
        value->offset = *total;
        TSR_TRY(add_bytes(total, aligned(self, tsr_type_bytes(&value->type)),
                          "persistent values"));
    }
    return TSR_OK;
}

/* ---- storages ---- */

static tsr_status new_storage(planner *self, int32_t value, storage made) {
    TSR_TRY(TSR_ARRAY_RESERVE(&self->storages, 1));
    for (int s = 0; s < TSR_STREAM_CLASSES; s++)
        made.touched[s] = -1;
    self->storage_of[value] = (int32_t)self->storages.count;
    TSR_ARRAY_PUSH(&self->storages, made);
    return TSR_OK;
}

static void touch(planner *self, tsr_value_id value, int32_t n) {
    storage *at = &self->storages.data[self->storage_of[value.index]];
    at->touched[self->graph->nodes.data[n].stream] = n;
    at->last = n > at->last ? n : at->last;
}

static tsr_space space_of(const tsr_value *value) {
    return value->role == TSR_ROLE_FULL_GRAD ? TSR_SPACE_GRADS
                                             : TSR_SPACE_TRANSIENT;
}

/* A gather that moves bytes writes whole shards, padding included. */
static size_t bytes_of(const planner *self, const tsr_value *value) {
    const tsr_target *target = &self->plan->target;
    if (value->role != TSR_ROLE_GATHERED)
        return tsr_type_bytes(&value->type);
    const tsr_param *param = &self->graph->params.data[value->param.index];
    return (size_t)tsr_shard_count(param, target->world) *
           (size_t)target->world * tsr_dtype_bytes(value->type.dtype);
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
static bool can_take_over(const planner *self, const tsr_order *order,
                          int32_t n, tsr_value_id input, tsr_value_id output) {
    const tsr_value *from = tsr_graph_value(self->graph, input),
                    *to = tsr_graph_value(self->graph, output);
    const storage *old = &self->storages.data[self->storage_of[input.index]];
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

static tsr_status assign_output(planner *self, const tsr_order *order,
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
            (storage){.space = TSR_SPACE_WEIGHTS,
                      .fixed = true,
                      .first = n,
                      .offset = self->param_offset[value->param.index]}));
    } else {
        TSR_TRY(new_storage(
            self, id.index,
            (storage){.space = space_of(value),
                      .first = n,
                      .last = n,
                      .bytes = aligned(self, bytes_of(self, value))}));
    }
    self->storages.data[self->storage_of[id.index]].pending +=
        self->reads[id.index];
    touch(self, id, n);
    return TSR_OK;
}

static tsr_status find_storages(planner *self) {
    tsr_status status = TSR_OK;
    tsr_graph *graph = self->graph;
    tsr_order order = {0};
    TSR_TRY_GOTO(tsr_order_create(graph, &order));
    for (int32_t n = 0; n < (int32_t)graph->nodes.count; n++)
        for (int32_t i = 0; i < graph->nodes.data[n].inputs.count; i++)
            self->reads[tsr_inputs_of(graph, &graph->nodes.data[n])[i].index]++;
    for (size_t v = 0; v < graph->values.count; v++)
        if (graph->values.data[v].producer.index < 0)
            TSR_TRY_GOTO(
                new_storage(self, (int32_t)v,
                            (storage){.space = graph->values.data[v].space,
                                      .fixed = true,
                                      .offset = graph->values.data[v].offset}));
    for (int32_t n = 0; n < (int32_t)graph->nodes.count; n++) {
        const tsr_node *node = &graph->nodes.data[n];
        tsr_order_push(&order);
        for (int32_t i = 0; i < node->inputs.count; i++) {
            tsr_value_id input = tsr_inputs_of(graph, node)[i];
            touch(self, input, n);
            self->storages.data[self->storage_of[input.index]].pending--;
        }
        for (int output = 0; output < node->outputs.count; output++)
            TSR_TRY_GOTO(assign_output(self, &order, n, output));
    }
done:
    tsr_order_release(&order);
    return status;
}

/* ---- packing ---- */

/* The node up to which a storage stays: see the top of the file. */
static int32_t kept_until(const planner *self, const storage *at,
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

static tsr_status add_block(planner *self, int32_t owner, int32_t first,
                            int32_t last, size_t bytes) {
    TSR_TRY(TSR_ARRAY_RESERVE(&self->blocks, 1));
    TSR_TRY(TSR_ARRAY_RESERVE(&self->block_of, 1));
    TSR_ARRAY_PUSH(&self->blocks,
                   ((tsr_block){.first = first, .last = last, .bytes = bytes}));
    TSR_ARRAY_PUSH(&self->block_of, owner);
    return TSR_OK;
}

static tsr_status find_workspaces(planner *self) {
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

/* Makes node n, the first owner of bytes, wait for all that touched them
 * before. Both are blocks of one space. */
static tsr_status wait_for_owners(planner *self, tsr_order *order, size_t block,
                                  int32_t n) {
    const tsr_block *mine = &self->blocks.data[block];
    int32_t before[TSR_STREAM_CLASSES] = {-1, -1, -1, -1, -1};
    for (size_t b = 0; b < self->blocks.count; b++) {
        const tsr_block *other = &self->blocks.data[b];
        if (b == block || other->last >= mine->first ||
            other->offset >= mine->offset + mine->bytes ||
            mine->offset >= other->offset + other->bytes)
            continue;
        int32_t owner = self->block_of.data[b];
        if (owner < 0) {
            int32_t worker = -1 - owner;
            tsr_stream_class stream = self->graph->nodes.data[worker].stream;
            before[stream] = worker > before[stream] ? worker : before[stream];
            continue;
        }
        for (int s = 0; s < TSR_STREAM_CLASSES; s++)
            if (self->storages.data[owner].touched[s] > before[s])
                before[s] = self->storages.data[owner].touched[s];
    }
    for (int s = 0; s < TSR_STREAM_CLASSES; s++) {
        if (before[s] < 0 ||
            tsr_order_before(order, (tsr_node_id){before[s]}, (tsr_node_id){n}))
            continue;
        TSR_TRY(tsr_graph_add_after(self->graph, &self->graph->nodes.data[n],
                                    (tsr_node_id){before[s]}));
        tsr_order_join(order, (tsr_node_id){before[s]});
    }
    return TSR_OK;
}

/* Waits for all blocks of one space and section; blocks are in the order of
 * their first node. */
static tsr_status add_waits(planner *self, int32_t section_end) {
    tsr_status status = TSR_OK;
    tsr_order order = {0};
    TSR_TRY_GOTO(tsr_order_create(self->graph, &order));
    for (int32_t n = 0, b = 0; n < section_end; n++) {
        tsr_order_push(&order);
        for (;
             b < (int32_t)self->blocks.count && self->blocks.data[b].first == n;
             b++)
            if (self->blocks.data[b].bytes > 0)
                TSR_TRY_GOTO(wait_for_owners(self, &order, (size_t)b, n));
    }
done:
    tsr_order_release(&order);
    return status;
}

/* Packs the storages of one section and space, adds the waits that reuse asks
 * for. */
static tsr_status pack_section(planner *self, tsr_space space, int32_t first,
                               int32_t end, size_t *out_live) {
    size_t bytes;
    self->blocks.count = self->block_of.count = 0;
    int32_t n = first;
    for (size_t i = 0; i <= self->storages.count;
         i++) { /* in the order of first nodes, workspaces between */
        const storage *at =
            i < self->storages.count ? &self->storages.data[i] : NULL;
        if (at && (at->fixed || at->first < first || at->first >= end))
            continue;
        for (; n < (at ? at->first : end); n++)
            if (space == TSR_SPACE_TRANSIENT &&
                self->graph->nodes.data[n].workspace_bytes > 0)
                TSR_TRY(add_block(self, -1 - n, n, n,
                                  self->graph->nodes.data[n].workspace_bytes));
        if (at && at->space == space)
            TSR_TRY(add_block(self, (int32_t)i, at->first,
                              kept_until(self, at, end), at->bytes));
    }
    TSR_TRY(tsr_pack(self->blocks.data, self->blocks.count, &bytes, out_live));
    for (size_t b = 0; b < self->blocks.count; b++) {
        int32_t owner = self->block_of.data[b];
        if (owner < 0)
            self->graph->nodes.data[-1 - owner].workspace_offset =
                self->blocks.data[b].offset;
        else
            self->storages.data[owner].offset = self->blocks.data[b].offset;
    }
    if (bytes > self->plan->bytes[space])
        self->plan->bytes[space] = bytes;
    return add_waits(self, end);
}

static tsr_status pack_all(planner *self) {
    static const tsr_space spaces[] = {TSR_SPACE_TRANSIENT, TSR_SPACE_GRADS};
    self->plan->live_bytes = 0;
    for (size_t s = 0; s < sizeof spaces / sizeof *spaces; s++) {
        size_t most_alive = 0;
        self->plan->bytes[spaces[s]] = 0;
        for (int32_t first = 0, end; first < (int32_t)self->graph->nodes.count;
             first = end) {
            size_t live;
            for (end = first; end < (int32_t)self->graph->nodes.count &&
                              self->graph->nodes.data[end].section ==
                                  self->graph->nodes.data[first].section;)
                end++;
            TSR_TRY(pack_section(self, spaces[s], first, end, &live));
            most_alive = live > most_alive ? live : most_alive;
        }
        self->plan->live_bytes += most_alive;
    }
    return TSR_OK;
}

static tsr_status run(tsr_plan *plan, const tsr_training *training) {
    tsr_status status = TSR_OK;
    tsr_graph *graph = plan->graph;
    planner self = {.plan = plan, .graph = graph};
    (void)training;

    TSR_TRY_GOTO(tsr_alloc(graph->params.count, sizeof *self.param_offset,
                           (void **)&self.param_offset));
    TSR_TRY_GOTO(tsr_alloc(graph->values.count, sizeof *self.storage_of,
                           (void **)&self.storage_of));
    TSR_TRY_GOTO(tsr_alloc(graph->values.count, sizeof *self.reads,
                           (void **)&self.reads));
    TSR_TRY_GOTO(place_weights(&self));
    TSR_TRY_GOTO(place_declared(&self));
    TSR_TRY_GOTO(find_storages(&self));
    TSR_TRY_GOTO(find_workspaces(&self));
    TSR_TRY_GOTO(pack_all(&self));
    for (size_t v = 0; v < graph->values.count; v++) {
        graph->values.data[v].space =
            self.storages.data[self.storage_of[v]].space;
        graph->values.data[v].offset =
            self.storages.data[self.storage_of[v]].offset;
    }
done:
    TSR_ARRAY_FREE(&self.block_of);
    TSR_ARRAY_FREE(&self.blocks);
    TSR_ARRAY_FREE(&self.storages);
    tsr_free(self.reads);
    tsr_free(self.storage_of);
    tsr_free(self.param_offset);
    return status;
}

const tsr_pass *tsr_pass_layout(void) {
    static const tsr_pass pass = {.name = "layout",
                                  .requires_ =
                                      TSR_HAS_SHARDS | TSR_HAS_SCHEDULE,
                                  .provides = TSR_HAS_LAYOUT,
                                  .conflicts = TSR_HAS_LAYOUT,
                                  .run = run};
    return &pass;
}
