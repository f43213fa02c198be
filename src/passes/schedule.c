/* Orders the nodes of each section so that memory is freed early, and makes
 * streams wait for each other where data needs it.
 *
 * List scheduling: whatever is ready goes in the model's order, gathers last.
 * When only gathers are ready, the one is taken whose copies can be released
 * with the fewest further gathers, then the one whose copies are held for the
 * shortest time (the method of DeepCompile's fast_free_schedule, Tanaka et al.
 * 2025).
 *
 * Cost: (nodes + edges) log nodes; (nodes + gathers squared) * gathers / 64
 * for the sets of gathers. */
#include "graph/order.h"
#include "passes/rewrite.h"
#include "passes/waits.h"
#include "tessera/passes.h"

/* Rates that turn cost into time where nothing was measured; only their ratio
 * matters here. */
#define CLOSED_FORM_FLOPS_PER_S 1e11
#define CLOSED_FORM_BYTES_PER_S 1e10

typedef struct edge {
    int32_t from, to;
} edge;

typedef struct scheduler {
    tsr_graph *graph;
    int32_t first, count;  /* nodes of the section */
    TSR_ARRAY(edge) edges; /* indices within the section */
    int32_t *successors;   /* (edges) grouped by from */
    int32_t *successor_at; /* (count + 1) */
    int32_t *blocked_by;   /* (count) predecessors not yet scheduled */
    int32_t *heap;         /* ready nodes that are no gathers, smallest first */
    size_t heap_count;
    TSR_ARRAY(int32_t) gathers; /* all of the section */
    uint64_t *needs; /* (count, words) gathers that must come before a node,
                        itself included */
    size_t words;
    uint64_t *scheduled; /* (words) gathers that are placed */
    int32_t *release_of; /* (count) for a gather: its release */
    double *held; /* (count) for a gather: seconds of the nodes between it and
                     its release */
    TSR_ARRAY(int32_t) order;
} scheduler;

/* ---- dependences ---- */

static tsr_status add_edge(scheduler *self, int32_t from, int32_t to) {
    if (from < 0 || from == to)
        return TSR_OK;
    TSR_TRY(TSR_ARRAY_RESERVE(&self->edges, 1));
    TSR_ARRAY_PUSH(&self->edges, ((edge){from, to}));
    return TSR_OK;
}

/* The node of the model's order that n must not overtake; -1: none. A reload is
 * ready as soon as its value is on the host, but there it is to stay until the
 * place where the model wants it back. */
static int32_t not_before(const scheduler *self, int32_t n) {
    const tsr_node *nodes = &self->graph->nodes.data[self->first];
    if (!(tsr_graph_op(self->graph, &nodes[n])->flags & TSR_OP_RELOADS))
        return -1;
    for (n--; n >= 0 && nodes[n].stream != TSR_ON_COMPUTE;)
        n--;
    return n;
}

/* Producers come before readers, and readers of a value before the node that
 * ends it. */
static tsr_status find_edges(scheduler *self) {
    tsr_graph *graph = self->graph;
    for (int32_t n = 0; n < self->count; n++) {
        const tsr_node *node = &graph->nodes.data[self->first + n];
        TSR_TRY(add_edge(self, not_before(self, n), n));
        for (int32_t i = 0; i < node->inputs.count; i++)
            TSR_TRY(add_edge(self,
                             tsr_value_of(graph, tsr_inputs_of(graph, node)[i])
                                     ->producer.index -
                                 self->first,
                             n));
    }
    int32_t *ender;
    tsr_status status = TSR_OK;
    TSR_TRY(tsr_alloc(graph->values.count, sizeof *ender, (void **)&ender));
    for (size_t v = 0; v < graph->values.count; v++)
        ender[v] = -1;
    for (int32_t n = 0; n < self->count; n++) {
        const tsr_node *node = &graph->nodes.data[self->first + n];
        for (int32_t k = 0; k < tsr_ended_count(graph, node); k++)
            if (tsr_has_value(tsr_ended_at(graph, node, k)))
                ender[tsr_ended_at(graph, node, k).index] = n;
    }
    for (int32_t n = 0; n < self->count; n++) {
        const tsr_node *node = &graph->nodes.data[self->first + n];
        for (int32_t i = 0; i < node->inputs.count; i++) {
            int32_t end = ender[tsr_inputs_of(graph, node)[i].index];
            if (end >= 0)
                TSR_TRY_GOTO(add_edge(self, n, end));
        }
    }
done:
    tsr_free(ender);
    return status;
}

static void group_edges(scheduler *self) {
    for (size_t e = 0; e < self->edges.count; e++)
        self->successor_at[self->edges.data[e].from + 1]++;
    for (int32_t n = 0; n < self->count; n++)
        self->successor_at[n + 1] += self->successor_at[n];
    /* blocked_by serves as the fill position first. */
    for (size_t e = 0; e < self->edges.count; e++) {
        edge at = self->edges.data[e];
        self->successors[self->successor_at[at.from] +
                         self->blocked_by[at.from]++] = at.to;
    }
    memset(self->blocked_by, 0, (size_t)self->count * sizeof *self->blocked_by);
    for (size_t e = 0; e < self->edges.count; e++)
        self->blocked_by[self->edges.data[e].to]++;
}

/* ---- gathers ---- */

static bool is_gather(const scheduler *self, int32_t n) {
    return self->graph->nodes.data[self->first + n].stream == TSR_ON_GATHER;
}

static double node_seconds(const scheduler *self, int32_t n,
                           tsr_type_array *types) {
    tsr_op_view view;
    tsr_cost cost = {0};
    if (tsr_graph_view(self->graph, &self->graph->nodes.data[self->first + n],
                       types, &view) != TSR_OK)
        return 0;
    if (view.op->cost)
        view.op->cost(&view, &cost);
    for (size_t i = 0; cost.bytes == 0 && i < view.input_count; i++)
        cost.bytes += (double)tsr_type_bytes(&view.inputs[i]);
    return cost.flops / CLOSED_FORM_FLOPS_PER_S +
           cost.bytes / CLOSED_FORM_BYTES_PER_S;
}

/* Which gathers each node needs; the order of nodes coming in is a valid one.
 */
static void find_needs(scheduler *self) {
    size_t words = self->words;
    for (size_t g = 0; g < self->gathers.count; g++)
        self->needs[(size_t)self->gathers.data[g] * words + g / 64] |=
            UINT64_C(1) << (g % 64);
    for (int32_t n = 0; n < self->count; n++)
        for (int32_t s = self->successor_at[n]; s < self->successor_at[n + 1];
             s++)
            for (size_t w = 0; w < words; w++)
                self->needs[(size_t)self->successors[s] * words + w] |=
                    self->needs[(size_t)n * words + w];
}

/* The release of a gather is the freeing node that needs it and reads its
 * waited copy; its holding time runs in model order. */
static void find_releases(scheduler *self) {
    tsr_graph *graph = self->graph;
    tsr_type_array types = {0};
    double seconds = 0;
    for (int32_t n = 0; n < self->count; n++) {
        const tsr_node *node = &graph->nodes.data[self->first + n];
        self->held[n] = seconds; /* for a gather: when it starts, until its
                                    release is met */
        seconds += node_seconds(self, n, &types);
        self->release_of[n] = n;
        if (!(tsr_graph_op(graph, node)->flags & TSR_OP_FREES))
            continue;
        tsr_node_id wait =
            tsr_value_of(graph, tsr_inputs_of(graph, node)[0])->producer;
        if (wait.index < self->first ||
            graph->nodes.data[wait.index].inputs.count == 0)
            continue;
        tsr_node_id gather =
            tsr_value_of(
                graph, tsr_inputs_of(graph, &graph->nodes.data[wait.index])[0])
                ->producer;
        if (gather.index < self->first ||
            !is_gather(self, gather.index - self->first))
            continue;
        self->release_of[gather.index - self->first] = n;
        self->held[gather.index - self->first] =
            seconds - self->held[gather.index - self->first];
    }
    TSR_ARRAY_FREE(&types);
}

static int further_gathers(const scheduler *self, int32_t gather) {
    const uint64_t *needs =
        self->needs + (size_t)self->release_of[gather] * self->words;
    int count = 0;
    for (size_t w = 0; w < self->words; w++)
        count += __builtin_popcountll(needs[w] & ~self->scheduled[w]);
    return count;
}

/* The ready gather to take next; -1: none. */
static int32_t choose_gather(const scheduler *self) {
    int32_t best = -1;
    int best_count = 0;
    for (size_t g = 0; g < self->gathers.count; g++) {
        int32_t gather = self->gathers.data[g];
        if (self->blocked_by[gather] != 0 ||
            self->scheduled[g / 64] >> (g % 64) & 1)
            continue;
        int count = further_gathers(self, gather);
        if (best >= 0 &&
            (count > best_count ||
             (count == best_count && self->held[gather] >= self->held[best])))
            continue;
        best = gather;
        best_count = count;
    }
    return best;
}

/* ---- list scheduling ---- */

static void heap_push(scheduler *self, int32_t node) {
    size_t at = self->heap_count++;
    while (at > 0 && self->heap[(at - 1) / 2] > node) {
        self->heap[at] = self->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    self->heap[at] = node;
}

static int32_t heap_pop(scheduler *self) {
    int32_t top = self->heap[0], last = self->heap[--self->heap_count];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < self->heap_count; at = child) {
        if (child + 1 < self->heap_count &&
            self->heap[child + 1] < self->heap[child])
            child++;
        if (self->heap[child] >= last)
            break;
        self->heap[at] = self->heap[child];
    }
    self->heap[at] = last;
    return top;
}

static void mark_scheduled(scheduler *self, int32_t gather) {
    for (size_t g = 0; g < self->gathers.count; g++)
        if (self->gathers.data[g] == gather)
            self->scheduled[g / 64] |= UINT64_C(1) << (g % 64);
}

static void order_nodes(scheduler *self) {
    for (int32_t n = 0; n < self->count; n++)
        if (self->blocked_by[n] == 0 && !is_gather(self, n))
            heap_push(self, n);
    while ((int32_t)self->order.count < self->count) {
        int32_t n = self->heap_count > 0 ? heap_pop(self) : choose_gather(self);
        if (n < 0)
            return; /* a cycle: the caller sees the missing nodes */
        if (is_gather(self, n))
            mark_scheduled(self, n);
        TSR_ARRAY_PUSH(&self->order, n);
        for (int32_t s = self->successor_at[n]; s < self->successor_at[n + 1];
             s++) {
            int32_t next = self->successors[s];
            if (--self->blocked_by[next] == 0 && !is_gather(self, next))
                heap_push(self, next);
        }
    }
}

static tsr_status schedule_section(tsr_graph *graph, int32_t first,
                                   int32_t count, tsr_rewrite *rewrite) {
    tsr_status status = TSR_OK;
    scheduler self = {.graph = graph, .first = first, .count = count};
    size_t nodes = (size_t)count;

    TSR_TRY_GOTO(find_edges(&self));
    for (int32_t n = 0; n < count; n++) {
        TSR_TRY_GOTO(TSR_ARRAY_RESERVE(&self.gathers, 1));
        if (is_gather(&self, n))
            TSR_ARRAY_PUSH(&self.gathers, n);
    }
    self.words = self.gathers.count / 64 + 1;
    TSR_TRY_GOTO(tsr_alloc(self.edges.count + 1, sizeof(int32_t),
                           (void **)&self.successors));
    TSR_TRY_GOTO(
        tsr_alloc(nodes + 1, sizeof(int32_t), (void **)&self.successor_at));
    TSR_TRY_GOTO(tsr_alloc(nodes, sizeof(int32_t), (void **)&self.blocked_by));
    TSR_TRY_GOTO(tsr_alloc(nodes, sizeof(int32_t), (void **)&self.heap));
    TSR_TRY_GOTO(tsr_alloc(nodes, sizeof(int32_t), (void **)&self.release_of));
    TSR_TRY_GOTO(tsr_alloc(nodes, sizeof(double), (void **)&self.held));
    TSR_TRY_GOTO(
        tsr_alloc(nodes, self.words * sizeof(uint64_t), (void **)&self.needs));
    TSR_TRY_GOTO(
        tsr_alloc(self.words, sizeof(uint64_t), (void **)&self.scheduled));
    TSR_TRY_GOTO(TSR_ARRAY_RESERVE(&self.order, nodes));
    group_edges(&self);
    find_needs(&self);
    find_releases(&self);
    order_nodes(&self);
    if ((int32_t)self.order.count < count) {
        status =
            tsr_error(TSR_INVALID_ARGUMENT,
                      "the nodes of section %s wait for each other in a circle",
                      tsr_section_name(graph->nodes.data[first].section));
        goto done;
    }
    for (int32_t i = 0; i < count; i++)
        TSR_TRY_GOTO(tsr_rewrite_keep(
            rewrite, &graph->nodes.data[first + self.order.data[i]]));
done:
    TSR_ARRAY_FREE(&self.order);
    tsr_free(self.scheduled);
    tsr_free(self.needs);
    tsr_free(self.held);
    tsr_free(self.release_of);
    tsr_free(self.heap);
    tsr_free(self.blocked_by);
    tsr_free(self.successor_at);
    tsr_free(self.successors);
    TSR_ARRAY_FREE(&self.gathers);
    TSR_ARRAY_FREE(&self.edges);
    return status;
}

/* ---- the pass ---- */

static tsr_status run(tsr_plan *plan, const tsr_training *training) {
    tsr_status status = TSR_OK;
    tsr_graph *graph = plan->graph;
    tsr_rewrite rewrite = {.graph = graph};
    (void)training;
    for (int32_t first = 0, end; first < (int32_t)graph->nodes.count;
         first = end) {
        for (end = first; end < (int32_t)graph->nodes.count &&
                          graph->nodes.data[end].section ==
                              graph->nodes.data[first].section;)
            end++;
        TSR_TRY_GOTO(schedule_section(graph, first, end - first, &rewrite));
    }
    TSR_TRY_GOTO(tsr_rewrite_finish(&rewrite));
    TSR_TRY_GOTO(tsr_waits_add(graph));
    status = tsr_compact(graph);
done:
    tsr_rewrite_release(&rewrite);
    return status;
}

const tsr_pass *tsr_pass_schedule(void) {
    static const tsr_pass pass = {.name = "schedule",
                                  .requires_ = TSR_HAS_SHARDS,
                                  .provides = TSR_HAS_SCHEDULE,
                                  .conflicts = TSR_HAS_SCHEDULE,
                                  .run = run};
    return &pass;
}
