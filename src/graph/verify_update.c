/* Second stage, last part: the update. Weights are written once, behind fences
 * where peers read them in place, from their own gradient, scaled by a norm
 * that all ranks agree on. */
#include "graph/lineage.h"
#include "graph/verify.h"

typedef struct checker {
    const tsr_plan *plan;
    const tsr_graph *graph;
    int32_t *updated; /* (params) how many nodes write its shard */
    bool *fenced;     /* (values) reaches fence_writers, perhaps after more
                         writes */
    bool *read;       /* (values) a node of the update reads it, or a copy */
} checker;

static bool is_fence(const tsr_graph *graph, const tsr_node *node) {
    return tsr_node_is(graph, node, "fence_readers") ||
           tsr_node_is(graph, node, "fence_writers");
}

static void find_fenced(checker *self) {
    const tsr_graph *graph = self->graph;
    for (int32_t n = (int32_t)graph->nodes.count - 1; n >= 0; n--) {
        const tsr_node *node = &graph->nodes.data[n];
        bool fence = tsr_node_is(graph, node, "fence_writers");
        for (int32_t i = 0; i < node->outputs.count; i++) {
            tsr_value_id over = tsr_graph_must_alias(graph, node, i);
            if (tsr_has_value(over) &&
                (fence ||
                 self->fenced[tsr_graph_outputs(graph, node)[i].index]))
                self->fenced[over.index] = true;
        }
    }
}

static void find_read(checker *self) {
    const tsr_graph *graph = self->graph;
    for (int32_t n = (int32_t)graph->nodes.count - 1; n >= 0; n--) {
        const tsr_node *node = &graph->nodes.data[n];
        if (node->section != TSR_UPDATE ||
            (tsr_node_moves(graph, node) &&
             !self->read[tsr_graph_outputs(graph, node)[0].index]))
            continue;
        for (int32_t i = 0; i < node->inputs.count; i++)
            self->read[tsr_graph_inputs(graph, node)[i].index] = true;
    }
}

/* ---- weights ---- */

/* Gradient and moments are those of the parameter that they change. */
static tsr_status check_same_param(const checker *self, tsr_node_id id,
                                   const tsr_node *node, tsr_param_id param) {
    const tsr_graph *graph = self->graph;
    for (int32_t i = 0; i < node->inputs.count; i++) {
        tsr_value_id input = tsr_graph_inputs(graph, node)[i];
        tsr_param_id other = tsr_graph_value(graph, input)->param;
        if (other.index >= 0 && other.index != param.index)
            return tsr_violation(self->plan, "wrong parameter", id, input,
                                 "it belongs to '%s', the node writes '%s'",
                                 graph->params.data[other.index].name,
                                 graph->params.data[param.index].name);
    }
    return TSR_OK;
}

static tsr_status check_fences(const checker *self, tsr_node_id id,
                               tsr_value_id input, tsr_value_id output) {
    if (!self->plan->target.gather_alias)
        return TSR_OK;
    if (!tsr_made_by(self->graph, input, "fence_readers"))
        return tsr_violation(self->plan, "write without fence", id, input,
                             "peers may still read these weights; "
                             "fence_readers must come between");
    if (!self->fenced[output.index])
        return tsr_violation(self->plan, "write without fence", id, output,
                             "no fence_writers tells peers that it is written");
    return TSR_OK;
}

/* A master and its twin are written by one node, or they would drift apart. */
static tsr_status check_twin(const checker *self, tsr_node_id id,
                             tsr_value_id output) {
    const tsr_graph *graph = self->graph;
    const tsr_node *node = tsr_graph_node_at(graph, id);
    const tsr_value *value = tsr_graph_value(graph, output);
    tsr_role other =
        value->role == TSR_ROLE_MASTER ? TSR_ROLE_PARAM_SHARD : TSR_ROLE_MASTER;
    if (!tsr_has_master(&graph->params.data[value->param.index]))
        return TSR_OK;
    for (int32_t i = 0; i < node->outputs.count; i++) {
        const tsr_value *twin =
            tsr_graph_value(graph, tsr_graph_outputs(graph, node)[i]);
        if (twin->role == other && twin->param.index == value->param.index)
            return TSR_OK;
    }
    return tsr_violation(self->plan, "twin not written", id, output,
                         "the node must write the parameter's %s too",
                         tsr_role_name(other));
}

static tsr_status check_shard_write(checker *self, tsr_node_id id) {
    const tsr_graph *graph = self->graph;
    const tsr_node *node = tsr_graph_node_at(graph, id);
    bool moves = tsr_node_moves(graph, node);
    if (is_fence(graph, node))
        return TSR_OK;
    for (int32_t i = 0; i < node->outputs.count; i++) {
        tsr_value_id output = tsr_graph_outputs(graph, node)[i],
                     input = tsr_graph_must_alias(graph, node, i);
        const tsr_value *value = tsr_graph_value(graph, output);
        /* A copy of its own changes no weights. */
        if ((value->role != TSR_ROLE_PARAM_SHARD &&
             value->role != TSR_ROLE_MASTER) ||
            (moves && !tsr_has_value(input)))
            continue;
        if (node->section != TSR_UPDATE)
            return tsr_violation(self->plan, "shard written in a micro-step",
                                 id, output, "only the update writes weights");
        if (moves) /* brings home what another node has written */
            continue;
        TSR_TRY(check_twin(self, id, output));
        if (value->role == TSR_ROLE_MASTER)
            continue;
        if (++self->updated[value->param.index] > 1)
            return tsr_violation(self->plan, "shard updated twice", id, output,
                                 "an earlier node of the update writes it too");
        TSR_TRY(check_same_param(self, id, node, value->param));
        TSR_TRY(check_fences(self, id, input, output));
    }
    return TSR_OK;
}

static tsr_status check_all_updated(const checker *self) {
    const tsr_graph *graph = self->graph;
    if (graph->nodes.count == 0 ||
        graph->nodes.data[graph->nodes.count - 1].section != TSR_UPDATE)
        return TSR_OK;
    for (size_t v = 0; v < graph->values.count; v++) {
        const tsr_value *value = &graph->values.data[v];
        if (value->role == TSR_ROLE_GRAD_SHARD && value->producer.index < 0 &&
            self->updated[value->param.index] == 0)
            return tsr_violation(self->plan, "shard never updated", TSR_NO_NODE,
                                 (tsr_value_id){(int32_t)v},
                                 "its gradient is reduced but nothing uses it");
    }
    return TSR_OK;
}

/* ---- the norm ---- */

/* A square sum is this rank's: of its shards. The norm is that of all. */
static tsr_status check_agreed(const checker *self, tsr_node_id id) {
    const tsr_graph *graph = self->graph;
    const tsr_node *node = tsr_graph_node_at(graph, id);
    if (!tsr_node_is(graph, node, "clip_scale") ||
        self->plan->target.world == 1)
        return TSR_OK;
    tsr_value_id square_sum = tsr_graph_inputs(graph, node)[0];
    if (tsr_made_by(graph, tsr_source_of(graph, square_sum), "all_reduce"))
        return TSR_OK;
    return tsr_violation(self->plan, "rank-local value", id, square_sum,
                         "all ranks must clip alike: an all_reduce must sum "
                         "it over them before");
}

/* Every reduce's part of the norm is in it. */
static tsr_status check_norm_complete(const checker *self, tsr_node_id clip) {
    const tsr_graph *graph = self->graph;
    for (int32_t n = 0; n < clip.index; n++) {
        const tsr_node *node = &graph->nodes.data[n];
        if (!tsr_node_is(graph, node, "reduce"))
            continue;
        tsr_value_id square_sum = tsr_source_of(
            graph, tsr_graph_inputs(graph, node)[node->inputs.count - 1]);
        char label[TSR_LABEL_BYTES];
        if (!self->read[square_sum.index])
            return tsr_violation(
                self->plan, "norm incomplete", clip, square_sum,
                "%s writes it, but no node of the update reads it",
                tsr_graph_node_label(graph, (tsr_node_id){n}, label));
    }
    return TSR_OK;
}

tsr_status tsr_verify_update(const tsr_plan *plan) {
    tsr_status status = TSR_OK;
    const tsr_graph *graph = plan->graph;
    checker self = {.plan = plan, .graph = graph};
    TSR_TRY_GOTO(tsr_alloc(graph->params.count, sizeof *self.updated,
                           (void **)&self.updated));
    TSR_TRY_GOTO(tsr_alloc(graph->values.count, sizeof *self.fenced,
                           (void **)&self.fenced));
    TSR_TRY_GOTO(
        tsr_alloc(graph->values.count, sizeof *self.read, (void **)&self.read));
    find_fenced(&self);
    find_read(&self);
    for (int32_t n = 0; n < (int32_t)graph->nodes.count; n++) {
        tsr_node_id id = {n};
        TSR_TRY_GOTO(check_shard_write(&self, id));
        TSR_TRY_GOTO(check_agreed(&self, id));
        if (tsr_node_is(graph, &graph->nodes.data[n], "clip_scale"))
            TSR_TRY_GOTO(check_norm_complete(&self, id));
    }
    status = check_all_updated(&self);
done:
    tsr_free(self.read);
    tsr_free(self.fenced);
    tsr_free(self.updated);
    return status;
}
