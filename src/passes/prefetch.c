/* Moves gathers that copy ahead of their use, so that the bytes of the next
 * group arrive while this one computes.
 *
 * With a depth of 1, and so at most two groups' copies at a time:
 *
 *   gather 0, gather 1 | wait 0, group 0, release 0 | gather 2 | wait 1, ...
 *
 * A gather goes up to where the copies of depth + 1 gathers before it are
 * released, at the latest to where those of `depth` gathers before it are
 * waited for, but stays behind the gather before it and behind what makes its
 * shards. Bytes that are free by then are all that it can be given, so nothing
 * later holds it up: layout puts the copies of neighbours side by side, and the
 * one after them takes the place of the first.
 *
 * Each goes up only while live bytes and its own stay within the budget at
 * every node that it passes. Live bytes are those that layout counts; packing
 * may still need more, which is layout's to find.
 *
 * Cost: that of finding storages; then gathers times the nodes they pass. */
#include "passes/prefetch.h"

#include "passes/rewrite.h"
#include "passes/storage.h"
#include "passes/waits.h"
#include "tessera/passes.h"

typedef struct ahead {
    int32_t node;     /* the gather */
    int32_t earliest; /* behind what makes its shards */
    int32_t first_wait;
    int32_t wait, release; /* the last that wait for it, or free its copies */
    int32_t before;        /* the node that it goes in front of */
    size_t bytes;          /* of its copies */
} ahead;

typedef struct prefetcher {
    tsr_plan *plan;
    tsr_graph *graph;
    int depth;
    size_t room;   /* bytes that may be alive in TRANSIENT; SIZE_MAX: any */
    size_t *alive; /* (nodes + 1) bytes that are; NULL: any may */
    TSR_ARRAY(ahead) gathers; /* all, in the order of nodes */
    int32_t *gather_of;       /* (values) that a copy comes from, or -1 */
    tsr_rewrite rewrite;
} prefetcher;

/* ---- gathers and what follows them ---- */

static tsr_status add_gather(prefetcher *self, int32_t n, int32_t section) {
    tsr_graph *graph = self->graph;
    const tsr_node *node = &graph->nodes.data[n];
    ahead made = {.node = n,
                  .earliest = section,
                  .first_wait = n + 1,
                  .wait = n,
                  .release = n,
                  .before = n};
    for (int32_t i = 0; i < node->inputs.count; i++) {
        tsr_value_id shard = tsr_inputs_of(graph, node)[i];
        int32_t producer = tsr_value_of(graph, shard)->producer.index;
        if (producer >= made.earliest)
            made.earliest = producer + 1;
    }
    for (int32_t i = 0; i < node->outputs.count; i++) {
        tsr_value_id copy = tsr_outputs_of(graph, node)[i];
        self->gather_of[copy.index] = (int32_t)self->gathers.count;
        made.bytes += tsr_storage_bytes(self->plan, tsr_value_of(graph, copy));
    }
    TSR_TRY(TSR_ARRAY_RESERVE(&self->gathers, 1));
    TSR_ARRAY_PUSH(&self->gathers, made);
    return TSR_OK;
}

static void follow_copies(prefetcher *self, int32_t n) {
    const tsr_graph *graph = self->graph;
    const tsr_node *node = &graph->nodes.data[n];
    bool wait = tsr_node_is(graph, node, "wait"),
         frees = (tsr_graph_op(graph, node)->flags & TSR_OP_FREES) != 0;
    for (int32_t i = 0; (wait || frees) && i < node->inputs.count; i++) {
        int32_t copy = tsr_graph_inputs(graph, node)[i].index;
        if (self->gather_of[copy] < 0)
            continue;
        ahead *gather = &self->gathers.data[self->gather_of[copy]];
        if (frees) {
            gather->release = n;
            continue;
        }
        self->gather_of[tsr_graph_outputs(graph, node)[i].index] =
            self->gather_of[copy];
        if (gather->wait == gather->node)
            gather->first_wait = n;
        gather->wait = n;
    }
}

static tsr_status find_gathers(prefetcher *self) {
    const tsr_graph *graph = self->graph;
    for (size_t v = 0; v < graph->values.count; v++)
        self->gather_of[v] = -1;
    for (int32_t n = 0, section = 0; n < (int32_t)graph->nodes.count; n++) {
        const tsr_node *node = &graph->nodes.data[n];
        if (node->section != graph->nodes.data[section].section)
            section = n;
        if (tsr_node_is(graph, node, "gather"))
            TSR_TRY(add_gather(self, n, section));
        else
            follow_copies(self, n);
    }
    return TSR_OK;
}

/* ---- the budget ---- */

/* A copy counts up to its release: how far layout keeps it beyond that, for the
 * gather after it, is seen when that one moves. The last one's no other moves.
 */
static void end_at_releases(prefetcher *self, const tsr_storages *storages) {
    const tsr_graph *graph = self->graph;
    for (size_t g = 0; g < self->gathers.count; g++) {
        int32_t n = self->gathers.data[g].node,
                section_end = tsr_section_end(graph, n);
        if (g + 1 == self->gathers.count ||
            self->gathers.data[g + 1].node >= section_end)
            continue;
        const tsr_node *node = &graph->nodes.data[n];
        for (int32_t i = 0; i < node->outputs.count; i++) {
            tsr_value_id copy = tsr_graph_outputs(graph, node)[i];
            const tsr_storage *at =
                &storages->all.data[storages->storage_of[copy.index]];
            int32_t until = tsr_storage_kept_until(storages, at, section_end);
            for (int32_t m = at->last + 1; m <= until; m++)
                self->alive[m] -= at->bytes;
        }
    }
}

/* What layout will count, in the order of nodes as it is now. Places are
 * layout's to give: what finding the storages left in the plan goes. */
static tsr_status measure(prefetcher *self, size_t memory) {
    tsr_plan *plan = self->plan;
    size_t most_grads = 0, nodes = self->graph->nodes.count, fixed;
    tsr_status status = TSR_OK;
    tsr_storages storages = {0};
    TSR_TRY_GOTO(tsr_storages_find(plan, &storages));
    TSR_TRY_GOTO(
        tsr_alloc(nodes + 1, sizeof *self->alive, (void **)&self->alive));
    tsr_storages_alive(&storages, TSR_SPACE_GRADS, self->alive);
    for (size_t n = 0; n < nodes; n++)
        most_grads = self->alive[n] > most_grads ? self->alive[n] : most_grads;
    plan->bytes[TSR_SPACE_GRADS] = most_grads;
    plan->bytes[TSR_SPACE_TRANSIENT] = 0;
    fixed = tsr_plan_rank_bytes(plan);
    self->room = memory > fixed ? memory - fixed : 0;
    tsr_storages_alive(&storages, TSR_SPACE_TRANSIENT, self->alive);
    end_at_releases(self, &storages);
done:
    memset(plan->bytes, 0, sizeof plan->bytes);
    for (size_t v = 0; v < self->graph->values.count; v++) {
        self->graph->values.data[v].space = TSR_SPACE_NONE;
        self->graph->values.data[v].offset = 0;
    }
    for (size_t n = 0; n < nodes; n++)
        self->graph->nodes.data[n].workspace_bytes = 0;
    tsr_storages_release(&storages);
    return status;
}

/* ---- moving ---- */

/* The place as far up as gather g may go; `first`: of its section's. */
static int32_t upper_end(const prefetcher *self, size_t g, size_t first) {
    const ahead *gathers = self->gathers.data;
    size_t depth = (size_t)self->depth, before = g - first;
    int32_t place = gathers[g].earliest;
    if (before > 0 && gathers[g - 1].before > place)
        place = gathers[g - 1].before;
    if (before < depth)
        return place;
    int32_t free_at = before > depth ? gathers[g - depth - 1].release + 1 : 0,
            used_at = gathers[g - depth].wait + 1;
    int32_t soonest = free_at < used_at ? free_at : used_at;
    return soonest > place ? soonest : place;
}

static bool fits(const prefetcher *self, int32_t n, size_t bytes) {
    return !self->alive ||
           (bytes <= self->room && self->alive[n] <= self->room - bytes);
}

static void add_alive(prefetcher *self, int32_t first, int32_t end,
                      size_t bytes) {
    for (int32_t n = first; self->alive && n < end; n++)
        self->alive[n] += bytes;
}

/* Where it stops, the copies of the gather before it are alive too (layout
 * keeps them until then), but not on nodes that it passes and that come after
 * their release. */
static void move_up(prefetcher *self, size_t g, size_t first) {
    ahead *gather = &self->gathers.data[g];
    const ahead *previous = g > first ? gather - 1 : NULL;
    int32_t end = upper_end(self, g, first);
    for (int32_t n = gather->node; n > end && fits(self, n - 1, gather->bytes);
         n--) {
        size_t bytes = gather->bytes;
        if (previous && n > previous->release + 1)
            bytes += previous->bytes;
        if (fits(self, n - 1, bytes))
            gather->before = n - 1;
    }
    add_alive(self, gather->before, gather->node, gather->bytes);
    if (previous)
        add_alive(self, previous->release + 1, gather->before + 1,
                  previous->bytes);
}

static void move_all_up(prefetcher *self) {
    size_t first = 0;
    for (size_t g = 0; g < self->gathers.count; g++) {
        const tsr_node *nodes = self->graph->nodes.data;
        if (nodes[self->gathers.data[g].node].section !=
            nodes[self->gathers.data[first].node].section)
            first = g;
        move_up(self, g, first);
    }
}

/* Each directly in front of its wait, in the order in which they are. */
static void move_all_down(prefetcher *self) {
    int32_t next = (int32_t)self->graph->nodes.count;
    for (size_t g = self->gathers.count; g-- > 0;) {
        ahead *gather = &self->gathers.data[g];
        next = gather->first_wait < next ? gather->first_wait : next;
        gather->before = next;
    }
}

static tsr_status write_order(prefetcher *self) {
    tsr_graph *graph = self->graph;
    size_t g = 0;
    for (int32_t n = 0; n < (int32_t)graph->nodes.count; n++) {
        for (; g < self->gathers.count && self->gathers.data[g].before == n;
             g++)
            TSR_TRY(tsr_rewrite_keep(
                &self->rewrite,
                &graph->nodes.data[self->gathers.data[g].node]));
        if (!tsr_node_is(graph, &graph->nodes.data[n], "gather"))
            TSR_TRY(tsr_rewrite_keep(&self->rewrite, &graph->nodes.data[n]));
    }
    return TSR_OK;
}

tsr_status tsr_prefetch(tsr_plan *plan, int depth, size_t memory) {
    tsr_status status = TSR_OK;
    tsr_graph *graph = plan->graph;
    prefetcher self = {.plan = plan,
                       .graph = graph,
                       .depth = depth,
                       .rewrite = {.graph = graph}};
    TSR_TRY_GOTO(tsr_alloc(graph->values.count, sizeof *self.gather_of,
                           (void **)&self.gather_of));
    TSR_TRY_GOTO(find_gathers(&self));
    if (depth > 0 && memory > 0)
        TSR_TRY_GOTO(measure(&self, memory));
    if (depth > 0)
        move_all_up(&self);
    else
        move_all_down(&self);
    TSR_TRY_GOTO(write_order(&self));
    TSR_TRY_GOTO(tsr_rewrite_finish(&self.rewrite));
    TSR_TRY_GOTO(tsr_waits_add(graph));
    status = tsr_compact(graph);
done:
    tsr_rewrite_release(&self.rewrite);
    tsr_free(self.gather_of);
    TSR_ARRAY_FREE(&self.gathers);
    tsr_free(self.alive);
    return status;
}

bool tsr_prefetches(const tsr_target *target) {
    return !target->gather_alias && target->world > 1 && target->prefetch > 0;
}

static tsr_status run(tsr_plan *plan, const tsr_training *training) {
    const tsr_target *target = &plan->target;
    (void)training;
    return tsr_prefetches(target)
               ? tsr_prefetch(plan, target->prefetch, target->memory)
               : TSR_OK;
}

const tsr_pass *tsr_pass_prefetch(void) {
    static const tsr_pass pass = {
        .name = "prefetch",
        .requires_ = TSR_HAS_SHARDS | TSR_HAS_SCHEDULE,
        .provides = TSR_HAS_PREFETCH,
        .conflicts = TSR_HAS_PREFETCH | TSR_HAS_LAYOUT,
        .run = run};
    return &pass;
}
