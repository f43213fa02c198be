/* Adds the update section: the gradients' global norm from the square sums that
 * reduce left, clipping, AdamW over the shards. Where gathered copies are the
 * weights themselves, fences keep writers from readers. */
#include "passes/rewrite.h"
#include "tessera/passes.h"

typedef struct updater {
    tsr_graph *graph;
    const tsr_training *training;
    size_t param_count;
    tsr_value_id *shards; /* (params) what gathers read */
    TSR_ARRAY(tsr_value_id) square_sums;
} updater;

/* Adds a node and gives its outputs (at most TSR_MAX_OUTPUTS). */
static tsr_status add(updater *self, const char *op, const tsr_value_id *inputs,
                      size_t count, const tsr_attr *attrs, size_t attr_count,
                      tsr_value_id *outputs) {
    tsr_graph_node(self->graph, op, inputs, count, attrs, attr_count, outputs);
    return tsr_graph_status(self->graph);
}

/* All shards through a fence, in place. */
static tsr_status add_fence(updater *self, const char *op) {
    tsr_node_id id;
    tsr_node_desc desc = {
        .op = op, .inputs = self->shards, .input_count = self->param_count};
    TSR_TRY(tsr_graph_append(self->graph, &desc, &id));
    memcpy(self->shards,
           tsr_graph_outputs(self->graph, tsr_graph_node_at(self->graph, id)),
           self->param_count * sizeof *self->shards);
    return TSR_OK;
}

static tsr_status list_square_sums(updater *self) {
    for (size_t n = 0; n < self->graph->nodes.count; n++) {
        const tsr_node *node = &self->graph->nodes.data[n];
        if (!tsr_node_is(self->graph, node, "reduce"))
            continue;
        TSR_TRY(TSR_ARRAY_RESERVE(&self->square_sums, 1));
        TSR_ARRAY_PUSH(
            &self->square_sums,
            tsr_inputs_of(self->graph, node)[node->inputs.count - 1]);
    }
    return TSR_OK;
}

/* The clipping factor, and the norm in its state. */
static tsr_status add_clip(updater *self, tsr_value_id *out_clip) {
    tsr_graph *graph = self->graph;
    tsr_type scalar = {.dtype = TSR_F32, .dims = 1, .shape = {1}};
    tsr_attr max_norm =
        TSR_ATTR_REAL("max_norm", self->training->adamw.max_norm);
    tsr_value_id sums[2], clip[2];
    const tsr_node *loss_node =
        tsr_graph_node_at(graph, tsr_graph_value(graph, graph->loss)->producer);
    int output = 0;
    while (tsr_graph_outputs(graph, loss_node)[output].index !=
           graph->loss.index)
        output++;
    sums[0] = tsr_graph_must_alias(graph, loss_node,
                                   output); /* the loss as it is declared */
    if (!tsr_has_value(sums[0]))
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "the loss must be written over a declared state, as "
                         "cross_entropy does");
    tsr_value_id norm =
        tsr_graph_declare(graph, "grad_norm", TSR_ROLE_STATE, &scalar);
    TSR_TRY(add(self, "sum", self->square_sums.data, self->square_sums.count,
                NULL, 0, &sums[1]));
    TSR_TRY(add(self, "all_reduce", sums, 2, NULL, 0, sums));
    TSR_TRY(add(self, "clip_scale", (tsr_value_id[]){sums[1], norm}, 2,
                &max_norm, 1, clip));
    *out_clip = clip[1];
    return TSR_OK;
}

static tsr_status add_adamw(updater *self, tsr_param_id param,
                            tsr_value_id schedule, tsr_value_id clip) {
    tsr_graph *graph = self->graph;
    const tsr_adamw *adamw = &self->training->adamw;
    int64_t count = tsr_type_count(
        &tsr_graph_value(graph, self->shards[param.index])->type);
    tsr_value_id shard = self->shards[param.index], weights = shard, m, v,
                 twin = TSR_NO_VALUE, outputs[4];
    if (tsr_has_master(&graph->params.data[param.index])) {
        TSR_TRY(tsr_declare_for(graph, param, "", TSR_ROLE_MASTER, count,
                                &weights));
        twin = shard;
    }
    TSR_TRY(
        tsr_declare_for(graph, param, ".exp_avg", TSR_ROLE_STATE, count, &m));
    TSR_TRY(tsr_declare_for(graph, param, ".exp_avg_sq", TSR_ROLE_STATE, count,
                            &v));
    tsr_value_id grad = tsr_find_role(graph, TSR_ROLE_GRAD_SHARD, param);
    tsr_attr attrs[4] = {
        TSR_ATTR_REAL("beta1", adamw->beta1),
        TSR_ATTR_REAL("beta2", adamw->beta2), TSR_ATTR_REAL("eps", adamw->eps),
        TSR_ATTR_REAL("weight_decay", graph->params.data[param.index].decay
                                          ? adamw->weight_decay
                                          : 0)};
    TSR_TRY(add(self, "adamw",
                (tsr_value_id[]){weights, grad, m, v, schedule, clip, twin}, 7,
                attrs, 4, outputs));
    self->shards[param.index] = outputs[tsr_has_value(twin) ? 3 : 0];
    return TSR_OK;
}

static tsr_status run(tsr_plan *plan, const tsr_training *training) {
    tsr_status status = TSR_OK;
    tsr_graph *graph = plan->graph;
    updater self = {.graph = graph,
                    .training = training,
                    .param_count = graph->params.count};
    tsr_type schedule_type = {.dtype = TSR_F32, .dims = 1, .shape = {2}};
    tsr_value_id clip = TSR_NO_VALUE;

    if (!training)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "the plan of an update needs a tsr_training");
    TSR_TRY_GOTO(tsr_alloc(self.param_count, sizeof *self.shards,
                           (void **)&self.shards));
    TSR_TRY_GOTO(list_square_sums(&self));
    graph->section = TSR_UPDATE;
    tsr_graph_set_layer(graph, "update");
    for (size_t p = 0; p < self.param_count; p++)
        self.shards[p] = tsr_find_role(graph, TSR_ROLE_PARAM_SHARD,
                                       (tsr_param_id){(int32_t)p});
    tsr_value_id schedule =
        tsr_graph_declare(graph, "schedule", TSR_ROLE_INPUT, &schedule_type);
    TSR_TRY_GOTO(add_clip(&self, &clip));
    if (plan->target.gather_alias)
        TSR_TRY_GOTO(add_fence(&self, "fence_readers"));
    for (size_t p = 0; p < self.param_count; p++)
        TSR_TRY_GOTO(
            add_adamw(&self, (tsr_param_id){(int32_t)p}, schedule, clip));
    if (plan->target.gather_alias)
        TSR_TRY_GOTO(add_fence(&self, "fence_writers"));
    status = tsr_compact(graph);
done:
    graph->section = TSR_MICRO_FIRST;
    TSR_ARRAY_FREE(&self.square_sums);
    tsr_free(self.shards);
    return status;
}

const tsr_pass *tsr_pass_update(void) {
    static const tsr_pass pass = {
        .name = "update",
        .requires_ = TSR_HAS_BACKWARD | TSR_HAS_SHARDS,
        .provides = TSR_HAS_UPDATE,
        .conflicts = TSR_HAS_UPDATE | TSR_HAS_SCHEDULE,
        .run = run};
    return &pass;
}
