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
#include "passes/pack.h"
#include "passes/storage.h"
#include "tessera/passes.h"

typedef struct planner {
    tsr_plan *plan;
    tsr_graph *graph;
    tsr_storages storages;
    TSR_ARRAY(tsr_block) blocks;
    TSR_ARRAY(int32_t)
    block_of; /* (blocks) storage, or -1 - node for a workspace */
} planner;

/* ---- packing ---- */

static tsr_status add_block(planner *self, int32_t owner, int32_t first,
                            int32_t last, size_t bytes) {
    TSR_TRY(TSR_ARRAY_RESERVE(&self->blocks, 1));
    TSR_TRY(TSR_ARRAY_RESERVE(&self->block_of, 1));
    TSR_ARRAY_PUSH(&self->blocks,
                   ((tsr_block){.first = first, .last = last, .bytes = bytes}));
    TSR_ARRAY_PUSH(&self->block_of, owner);
    return TSR_OK;
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
            if (self->storages.all.data[owner].touched[s] > before[s])
                before[s] = self->storages.all.data[owner].touched[s];
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
    for (size_t i = 0; i <= self->storages.all.count;
         i++) { /* in the order of first nodes, workspaces between */
        const tsr_storage *at =
            i < self->storages.all.count ? &self->storages.all.data[i] : NULL;
        if (at && (at->fixed || at->first < first || at->first >= end))
            continue;
        for (; n < (at ? at->first : end); n++)
            if (space == TSR_SPACE_TRANSIENT &&
                self->graph->nodes.data[n].workspace_bytes > 0)
                TSR_TRY(add_block(self, -1 - n, n, n,
                                  self->graph->nodes.data[n].workspace_bytes));
        if (at && at->space == space)
            TSR_TRY(add_block(self, (int32_t)i, at->first,
                              tsr_storage_kept_until(&self->storages, at, end),
                              at->bytes));
    }
    TSR_TRY(tsr_pack(self->blocks.data, self->blocks.count, &bytes, out_live));
    for (size_t b = 0; b < self->blocks.count; b++) {
        int32_t owner = self->block_of.data[b];
        if (owner < 0)
            self->graph->nodes.data[-1 - owner].workspace_offset =
                self->blocks.data[b].offset;
        else
            self->storages.all.data[owner].offset = self->blocks.data[b].offset;
    }
    if (bytes > self->plan->bytes[space])
        self->plan->bytes[space] = bytes;
    return add_waits(self, end);
}

static tsr_status pack_all(planner *self) {
    static const tsr_space spaces[] = {TSR_SPACE_TRANSIENT, TSR_SPACE_GRADS,
                                       TSR_SPACE_HOST_TRANSIENT};
    self->plan->live_bytes = 0;
    for (size_t s = 0; s < sizeof spaces / sizeof *spaces; s++) {
        size_t most_alive = 0;
        self->plan->bytes[spaces[s]] = 0;
        for (int32_t first = 0, end; first < (int32_t)self->graph->nodes.count;
             first = end) {
            size_t live;
            end = tsr_section_end(self->graph, first);
            TSR_TRY(pack_section(self, spaces[s], first, end, &live));
            most_alive = live > most_alive ? live : most_alive;
        }
        if (spaces[s] != TSR_SPACE_HOST_TRANSIENT)
            self->plan->live_bytes += most_alive;
    }
    return TSR_OK;
}

static tsr_status run(tsr_plan *plan, const tsr_training *training) {
    tsr_status status = TSR_OK;
    tsr_graph *graph = plan->graph;
    planner self = {.plan = plan, .graph = graph};
    (void)training;

    TSR_TRY_GOTO(tsr_storages_find(plan, &self.storages));
    TSR_TRY_GOTO(pack_all(&self));
    for (size_t v = 0; v < graph->values.count; v++) {
        graph->values.data[v].space =
            self.storages.all.data[self.storages.storage_of[v]].space;
        graph->values.data[v].offset =
            self.storages.all.data[self.storages.storage_of[v]].offset;
    }
done:
    TSR_ARRAY_FREE(&self.block_of);
    TSR_ARRAY_FREE(&self.blocks);
    tsr_storages_release(&self.storages);
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
