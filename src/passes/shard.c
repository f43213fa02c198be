/* Shards the parameters: whole parameters become gathered copies that live from
 * a gather to a release, whole gradients are reduced into shards. One gather
 * for all parameters of a group that an interval uses; one reduce for all
 * gradients of a group.
 *
 * An interval is a run of uses of one group without a use of another group
 * between them: a layer's forward, its backward, and, for weights tied to the
 * other end of the model, each end by itself. */
#include <stdio.h>

#include "passes/rewrite.h"
#include "tessera/passes.h"

typedef struct interval {
    int32_t group;
    int32_t first, last; /* nodes of the first and the last use */
} interval;

typedef struct sharder {
    tsr_plan *plan;
    tsr_graph *graph;
    size_t param_count, group_count;
    tsr_value_id *shard;      /* (params) */
    tsr_value_id *grad;       /* (params) its whole gradient, or none */
    tsr_value_id *grad_shard; /* (params) or none */
    tsr_value_id *square_sum; /* (groups) or none */
    int32_t *grads_ready;     /* (groups) last node that writes one of its
                                 gradients; -1 */
    tsr_value_id
        *gathered; /* (params) the copy in the current interval, or none */
    TSR_ARRAY(interval) intervals;
    TSR_ARRAY(tsr_value_id) list;    /* scratch: operands of a node */
    TSR_ARRAY(tsr_value_id) outputs; /* scratch */
    tsr_rewrite rewrite;
} sharder;

static int32_t group_of(const sharder *self, const tsr_value *value) {
    return self->graph->params.data[value->param.index].group;
}

/* ---- reading the graph ---- */

static tsr_status add_use(sharder *self, int32_t *open, int32_t group,
                          int32_t node, int32_t *latest_group) {
    if (open[group] >= 0 && *latest_group == group) {
        self->intervals.data[open[group]].last = node;
        return TSR_OK;
    }
    TSR_TRY(TSR_ARRAY_RESERVE(&self->intervals, 1));
    open[group] = (int32_t)self->intervals.count;
    *latest_group = group;
    TSR_ARRAY_PUSH(&self->intervals, ((interval){group, node, node}));
    return TSR_OK;
}

static tsr_status find_intervals(sharder *self) {
    tsr_status status = TSR_OK;
    int32_t *open = NULL, latest_group = -1;
    TSR_TRY(tsr_alloc(self->group_count, sizeof *open, (void **)&open));
    for (size_t g = 0; g < self->group_count; g++)
        open[g] = -1;
    for (int32_t n = 0; n < (int32_t)self->graph->nodes.count; n++) {
        const tsr_node *node = &self->graph->nodes.data[n];
        for (int32_t i = 0; i < node->inputs.count; i++) {
            const tsr_value *value =
                tsr_value_of(self->graph, tsr_inputs_of(self->graph, node)[i]);
            if (value->role == TSR_ROLE_PARAMETER)
                TSR_TRY_GOTO(add_use(self, open, group_of(self, value), n,
                                     &latest_group));
        }
    }
done:
    tsr_free(open);
    return status;
}

/* The last value of each whole gradient, and when a group's are complete. */
static void find_gradients(sharder *self) {
    for (int32_t n = 0; n < (int32_t)self->graph->nodes.count; n++) {
        const tsr_node *node = &self->graph->nodes.data[n];
        for (int32_t i = 0; i < node->outputs.count; i++) {
            tsr_value_id id = tsr_outputs_of(self->graph, node)[i];
            const tsr_value *value = tsr_value_of(self->graph, id);
            if (value->role != TSR_ROLE_FULL_GRAD)
                continue;
            self->grad[value->param.index] = id;
            self->grads_ready[group_of(self, value)] = n;
        }
    }
}

/* Where the model computes in another dtype than is stored, what gathers read
 * is NAME.DTYPE, the twin of a master called NAME that the update declares. */
static tsr_status declare_weights(sharder *self, tsr_param_id param,
                                  int64_t count) {
    const tsr_param *of = &self->graph->params.data[param.index];
    char suffix[16] = "";
    if (tsr_has_master(of))
        snprintf(suffix, sizeof suffix, ".%s", tsr_dtype_name(of->type.dtype));
    return tsr_declare_for(self->graph, param, suffix, TSR_ROLE_PARAM_SHARD,
                           count, &self->shard[param.index]);
}

static tsr_status declare_shards(sharder *self) {
    for (size_t p = 0; p < self->param_count; p++) {
        tsr_param_id param = {(int32_t)p};
        int64_t count = tsr_shard_count(&self->graph->params.data[p],
                                        self->plan->target.world);
        TSR_TRY(declare_weights(self, param, count));
        if (tsr_has_value(self->grad[p]))
            TSR_TRY(tsr_declare_for(self->graph, param, ".grad",
                                    TSR_ROLE_GRAD_SHARD, count,
                                    &self->grad_shard[p]));
    }
    for (size_t g = 0; g < self->group_count; g++) {
        char name[40];
        int64_t count = 0;
        for (size_t p = 0; p < self->param_count; p++)
            count += self->graph->params.data[p].group == (int)g &&
                     tsr_has_value(self->grad[p]);
        if (count == 0)
            continue;
        snprintf(name, sizeof name, "group.%zu.square_sum", g);
        tsr_type type = {.dtype = TSR_F32, .dims = 1, .shape = {count}};
        self->square_sum[g] =
            tsr_graph_declare(self->graph, name, TSR_ROLE_STATE, &type);
        TSR_TRY(tsr_graph_status(self->graph));
    }
    return TSR_OK;
}

/* ---- writing the new order ---- */

#define PUSH(array, value)                                                     \
    do {                                                                       \
        TSR_TRY(TSR_ARRAY_RESERVE(array, 1));                                  \
        TSR_ARRAY_PUSH(array, value);                                          \
    } while (0)

static void enter(sharder *self, const tsr_node *node) {
    self->graph->phase = node->phase;
    self->graph->layer = node->layer;
}

/* Puts the parameters that the interval uses into `list` as shards and
 * `outputs` as new gathered copies. */
static tsr_status list_gather(sharder *self, const interval *span,
                              const tsr_node *nodes) {
    self->list.count = self->outputs.count = 0;
    for (int32_t n = span->first; n <= span->last; n++) {
        for (int32_t i = 0; i < nodes[n].inputs.count; i++) {
            const tsr_value *value = tsr_value_of(
                self->graph, tsr_inputs_of(self->graph, &nodes[n])[i]);
            int32_t p = value->param.index;
            if (value->role != TSR_ROLE_PARAMETER ||
                group_of(self, value) != span->group ||
                tsr_has_value(self->gathered[p]))
                continue;
            tsr_value copy = {.type = value->type,
                              .role = TSR_ROLE_GATHERED,
                              .name = "",
                              .param = {p}};
            self->gathered[p] = tsr_graph_add_value(self->graph, &copy);
            TSR_TRY(tsr_graph_status(self->graph));
            PUSH(&self->list, self->shard[p]);
            PUSH(&self->outputs, self->gathered[p]);
        }
    }
    return TSR_OK;
}

static tsr_status add_gather(sharder *self, const interval *span,
                             const tsr_node *nodes) {
    tsr_node node;
    enter(self, &nodes[span->first]);
    TSR_TRY(list_gather(self, span, nodes));
    TSR_TRY(
        tsr_rewrite_add(&self->rewrite,
                        &(tsr_node_desc){.op = "gather",
                                         .inputs = self->list.data,
                                         .input_count = self->list.count,
                                         .outputs = self->outputs.data,
                                         .output_count = self->outputs.count},
                        &node));
    TSR_TRY(
        tsr_rewrite_add(&self->rewrite,
                        &(tsr_node_desc){.op = "wait",
                                         .inputs = self->outputs.data,
                                         .input_count = self->outputs.count},
                        &node));
    for (int32_t i = 0; i < node.outputs.count; i++) {
        tsr_value_id waited = tsr_outputs_of(self->graph, &node)[i];
        self->gathered[tsr_value_of(self->graph, waited)->param.index] = waited;
    }
    return TSR_OK;
}

static tsr_status add_release(sharder *self, const interval *span,
                              const tsr_node *nodes) {
    tsr_node node;
    enter(self, &nodes[span->last]);
    self->list.count = 0;
    for (size_t p = 0; p < self->param_count; p++) {
        if (self->graph->params.data[p].group != span->group ||
            !tsr_has_value(self->gathered[p]))
            continue;
        PUSH(&self->list, self->gathered[p]);
        self->gathered[p] = TSR_NO_VALUE;
    }
    return tsr_rewrite_add(&self->rewrite,
                           &(tsr_node_desc){.op = "release",
                                            .inputs = self->list.data,
                                            .input_count = self->list.count},
                           &node);
}

static tsr_status add_reduce(sharder *self, int32_t group,
                             const tsr_node *after) {
    tsr_node node;
    tsr_attr accumulate = TSR_ATTR_INT("accumulate", 0);
    enter(self, after);
    self->list.count = 0;
    for (int shards = 0; shards < 2; shards++)
        for (size_t p = 0; p < self->param_count; p++)
            if (self->graph->params.data[p].group == group &&
                tsr_has_value(self->grad[p]))
                PUSH(&self->list, shards ? self->grad_shard[p] : self->grad[p]);
    PUSH(&self->list, self->square_sum[group]);
    return tsr_rewrite_add(&self->rewrite,
                           &(tsr_node_desc){.op = "reduce",
                                            .inputs = self->list.data,
                                            .input_count = self->list.count,
                                            .attrs = &accumulate,
                                            .attr_count = 1},
                           &node);
}

static void use_gathered(sharder *self, const tsr_node *node) {
    for (int32_t i = 0; i < node->inputs.count; i++) {
        tsr_value_id *input = &tsr_inputs_of(self->graph, node)[i];
        const tsr_value *value = tsr_value_of(self->graph, *input);
        if (value->role == TSR_ROLE_PARAMETER)
            *input = self->gathered[value->param.index];
    }
}

static tsr_status write_order(sharder *self, const tsr_node *nodes,
                              int32_t node_count) {
    for (int32_t n = 0; n < node_count; n++) {
        for (size_t i = 0; i < self->intervals.count; i++)
            if (self->intervals.data[i].first == n)
                TSR_TRY(add_gather(self, &self->intervals.data[i], nodes));
        use_gathered(self, &nodes[n]);
        TSR_TRY(tsr_rewrite_keep(&self->rewrite, &nodes[n]));
        for (size_t i = 0; i < self->intervals.count; i++)
            if (self->intervals.data[i].last == n)
                TSR_TRY(add_release(self, &self->intervals.data[i], nodes));
        for (size_t g = 0; g < self->group_count; g++)
            if (self->grads_ready[g] == n)
                TSR_TRY(add_reduce(self, (int32_t)g, &nodes[n]));
    }
    return TSR_OK;
}

static tsr_status alloc_tables(sharder *self) {
    TSR_TRY(tsr_alloc(self->param_count, sizeof *self->shard,
                      (void **)&self->shard));
    TSR_TRY(
        tsr_alloc(self->param_count, sizeof *self->grad, (void **)&self->grad));
    TSR_TRY(tsr_alloc(self->param_count, sizeof *self->grad_shard,
                      (void **)&self->grad_shard));
    TSR_TRY(tsr_alloc(self->param_count, sizeof *self->gathered,
                      (void **)&self->gathered));
    TSR_TRY(tsr_alloc(self->group_count, sizeof *self->square_sum,
                      (void **)&self->square_sum));
    TSR_TRY(tsr_alloc(self->group_count, sizeof *self->grads_ready,
                      (void **)&self->grads_ready));
    for (size_t p = 0; p < self->param_count; p++)
        self->shard[p] = self->grad[p] = self->grad_shard[p] =
            self->gathered[p] = TSR_NO_VALUE;
    for (size_t g = 0; g < self->group_count; g++) {
        self->square_sum[g] = TSR_NO_VALUE;
        self->grads_ready[g] = -1;
    }
    return TSR_OK;
}

static tsr_status run(tsr_plan *plan, const tsr_training *training) {
    tsr_status status = TSR_OK;
    tsr_graph *graph = plan->graph;
    sharder self = {.plan = plan,
                    .graph = graph,
                    .param_count = graph->params.count,
                    .rewrite = {.graph = graph}};
    tsr_node *nodes =
        NULL; /* a copy: the graph's list is where new nodes are made */
    size_t node_count = graph->nodes.count;
    (void)training;

    for (size_t p = 0; p < self.param_count; p++)
        if ((size_t)graph->params.data[p].group >= self.group_count)
            self.group_count = (size_t)graph->params.data[p].group + 1;
    TSR_TRY_GOTO(alloc_tables(&self));
    find_gradients(&self);
    TSR_TRY_GOTO(find_intervals(&self));
    TSR_TRY_GOTO(declare_shards(&self));
    TSR_TRY_GOTO(tsr_alloc(node_count, sizeof *nodes, (void **)&nodes));
    memcpy(nodes, graph->nodes.data, node_count * sizeof *nodes);
    TSR_TRY_GOTO(write_order(&self, nodes, (int32_t)node_count));
    TSR_TRY_GOTO(tsr_rewrite_finish(&self.rewrite));
    status = tsr_compact(graph);
done:
    tsr_free(nodes);
    tsr_rewrite_release(&self.rewrite);
    TSR_ARRAY_FREE(&self.intervals);
    TSR_ARRAY_FREE(&self.list);
    TSR_ARRAY_FREE(&self.outputs);
    tsr_free(self.grads_ready);
    tsr_free(self.square_sum);
    tsr_free(self.gathered);
    tsr_free(self.grad_shard);
    tsr_free(self.grad);
    tsr_free(self.shard);
    return status;
}

const tsr_pass *tsr_pass_shard(void) {
    static const tsr_pass pass = {.name = "shard",
                                  .provides = TSR_HAS_SHARDS,
                                  .conflicts =
                                      TSR_HAS_SHARDS | TSR_HAS_SCHEDULE,
                                  .run = run};
    return &pass;
}
