/* Second stage: the ZeRO protocol of a micro-step. Every gathered copy is
 * gathered, waited for, released once; every gradient is reduced once.
 * verify_update.c goes on with the update. */
#include "graph/lineage.h"
#include "graph/verify.h"

typedef struct checker {
    const tsr_plan *plan;
    const tsr_graph *graph;
    int32_t *waits;    /* (values) how many wait nodes take it */
    int32_t *releases; /* (values) how many release nodes take it */
    int32_t *readers;  /* (values) how many nodes read it */
    int32_t (*reduced)[TSR_SECTIONS]; /* (params) how many reduces write its
                                         gradient shard */
    tsr_lineage *lineages;            /* (values) */
} checker;

bool tsr_made_by(const tsr_graph *graph, tsr_value_id value, const char *op) {
    tsr_node_id producer = tsr_graph_value(graph, value)->producer;
    return producer.index >= 0 &&
           tsr_node_is(graph, tsr_graph_node_at(graph, producer), op);
}

static void count_uses(checker *self) {
    for (size_t n = 0; n < self->graph->nodes.count; n++) {
        const tsr_node *node = &self->graph->nodes.data[n];
        bool wait = tsr_node_is(self->graph, node, "wait"),
             release = tsr_node_is(self->graph, node, "release");
        for (int32_t i = 0; i < node->inputs.count; i++) {
            int32_t v = tsr_graph_inputs(self->graph, node)[i].index;
            self->readers[v]++;
            self->waits[v] += wait;
            self->releases[v] += release;
        }
    }
}

/* ---- gathered copies ---- */

static tsr_status check_gather(const checker *self, tsr_node_id id,
                               const tsr_node *node) {
    const tsr_graph *graph = self->graph;
    for (int32_t i = 0; i < node->inputs.count; i++) {
        tsr_value_id shard = tsr_graph_inputs(graph, node)[i],
                     copy = tsr_graph_outputs(graph, node)[i];
        const tsr_value *from = tsr_graph_value(graph, shard),
                        *to = tsr_graph_value(graph, copy);
        if (from->role != TSR_ROLE_PARAM_SHARD ||
            to->role != TSR_ROLE_GATHERED ||
            from->param.index != to->param.index)
            return tsr_violation(
                self->plan, "gather mismatch", id, copy,
                "a gather turns the param_shard of a parameter into its copy");
        if (!tsr_type_equal(&to->type,
                            &graph->params.data[to->param.index].type))
            return tsr_violation(self->plan, "type mismatch", id, copy,
                                 "the copy has not its parameter's type");
        bool alias = self->plan->target.gather_alias;
        if (alias && self->lineages[shard.index].storage < 0)
            return tsr_violation(
                self->plan, "gather outside the weights", id, shard,
                "it is a copy in this rank's own memory, but gathers alias the "
                "weights that ranks share; compile with gather copy");
        bool written = from->producer.index >= 0 || node->section == TSR_UPDATE;
        if (written && alias && !tsr_made_by(graph, shard, "fence_writers"))
            return tsr_violation(self->plan, "read without fence", id, shard,
                                 "peers may still write their shards; "
                                 "fence_writers must come between");
        if (self->waits[copy.index] == 0)
            return tsr_violation(self->plan, "gather without wait", id, copy,
                                 "no node waits for it");
        if (self->waits[copy.index] > 1 || self->readers[copy.index] > 1)
            return tsr_violation(
                self->plan, "use before wait", id, copy,
                "only one wait may take it; uses take the wait's output");
    }
    return TSR_OK;
}

static tsr_status check_wait(const checker *self, tsr_node_id id,
                             const tsr_node *node) {
    for (int32_t i = 0; i < node->inputs.count; i++) {
        tsr_value_id input = tsr_graph_inputs(self->graph, node)[i],
                     output = tsr_graph_outputs(self->graph, node)[i];
        if (!tsr_made_by(self->graph, input, "gather"))
            return tsr_violation(self->plan, "wait without gather", id, input,
                                 "no gather makes it");
        if (self->releases[output.index] == 0)
            return tsr_violation(self->plan, "gather without release", id,
                                 output, "the copy is never released");
        if (self->releases[output.index] > 1)
            return tsr_violation(self->plan, "released twice", id, output,
                                 "%d release nodes take it",
                                 self->releases[output.index]);
    }
    return TSR_OK;
}

static tsr_status check_release(const checker *self, tsr_node_id id,
                                const tsr_node *node) {
    for (int32_t i = 0; i < node->inputs.count; i++) {
        tsr_value_id input = tsr_graph_inputs(self->graph, node)[i];
        if (!tsr_made_by(self->graph, input, "wait"))
            return tsr_violation(self->plan, "release without gather", id,
                                 input, "it is no copy that was waited for");
    }
    return TSR_OK;
}

/* ---- gradients ---- */

static tsr_status check_reduce(checker *self, tsr_node_id id,
                               const tsr_node *node) {
    const tsr_graph *graph = self->graph;
    int32_t count = node->inputs.count / 2;
    if (node->section == TSR_UPDATE)
        return tsr_violation(self->plan, "reduce outside a micro-step", id,
                             TSR_NO_VALUE, "gradients are made in micro-steps");
    tsr_value_id square_sum = tsr_graph_inputs(graph, node)[2 * count];
    if (tsr_graph_value(graph, square_sum)->role != TSR_ROLE_STATE)
        return tsr_violation(self->plan, "reduce mismatch", id, square_sum,
                             "square_sum must be a declared state, for the "
                             "update to read");
    for (int32_t i = 0; i < count; i++) {
        tsr_value_id full = tsr_graph_inputs(graph, node)[i],
                     shard = tsr_graph_inputs(graph, node)[count + i];
        const tsr_value *from = tsr_graph_value(graph, full),
                        *to = tsr_graph_value(graph, shard);
        if (from->role != TSR_ROLE_FULL_GRAD ||
            to->role != TSR_ROLE_GRAD_SHARD ||
            from->param.index != to->param.index)
            return tsr_violation(self->plan, "reduce mismatch", id, full,
                                 "a reduce turns a whole gradient into the "
                                 "shard of its parameter");
        if (self->readers[full.index] != 1)
            return tsr_violation(self->plan, "gradient reduced twice", id, full,
                                 "%d nodes read it, only its reduce may",
                                 self->readers[full.index]);
        if (++self->reduced[from->param.index][node->section] > 1)
            return tsr_violation(
                self->plan, "gradient reduced twice", id, full,
                "section %s reduces this parameter's gradient before",
                tsr_section_name(node->section));
    }
    return TSR_OK;
}

static tsr_status check_all_reduced(const checker *self) {
    const tsr_graph *graph = self->graph;
    bool present[TSR_SECTIONS] = {false};
    for (size_t n = 0; n < graph->nodes.count; n++)
        present[graph->nodes.data[n].section] = true;
    for (size_t v = 0; v < graph->values.count; v++) {
        const tsr_value *value = &graph->values.data[v];
        tsr_value_id id = {(int32_t)v};
        if (value->role == TSR_ROLE_FULL_GRAD && value->producer.index >= 0 &&
            self->readers[v] == 0)
            return tsr_violation(self->plan, "gradient never reduced",
                                 value->producer, id, "no reduce takes it");
        if (value->role != TSR_ROLE_GRAD_SHARD || value->producer.index >= 0)
            continue;
        for (int s = TSR_MICRO_FIRST; s < TSR_UPDATE; s++)
            if (present[s] && self->reduced[value->param.index][s] == 0)
                return tsr_violation(self->plan, "gradient never reduced",
                                     TSR_NO_NODE, id,
                                     "no reduce of section %s writes it",
                                     tsr_section_name((tsr_section)s));
    }
    return TSR_OK;
}

/* Ops that can accumulate: the first micro-step writes, later ones add. An
 * attribute left out is 0. */
static tsr_status check_accumulate(const checker *self, tsr_node_id id,
                                   const tsr_node *node) {
    const tsr_op *op = tsr_graph_op(self->graph, node);
    if (!op->attrs || !strstr(op->attrs, "accumulate"))
        return TSR_OK;
    tsr_op_view view = {.attrs = tsr_graph_attrs(self->graph, node),
                        .attr_count = (size_t)node->attrs.count};
    int64_t accumulate = tsr_view_int(&view, "accumulate", 0);
    if (accumulate == (node->section == TSR_MICRO_NEXT))
        return TSR_OK;
    return tsr_violation(
        self->plan, "wrong accumulation", id,
        node->outputs.count > 0 ? tsr_graph_outputs(self->graph, node)[0]
                                : TSR_NO_VALUE,
        "accumulate=%lld in section %s: the first micro-step writes, later "
        "ones add",
        (long long)accumulate, tsr_section_name(node->section));
}

static tsr_status check_node(checker *self, tsr_node_id id) {
    const tsr_graph *graph = self->graph;
    const tsr_node *node = tsr_graph_node_at(graph, id);
    for (int32_t i = 0; i < node->inputs.count; i++)
        if (tsr_graph_value(graph, tsr_graph_inputs(graph, node)[i])->role ==
            TSR_ROLE_PARAMETER)
            return tsr_violation(self->plan, "parameter not gathered", id,
                                 tsr_graph_inputs(graph, node)[i],
                                 "a whole parameter is used without a gather");
    TSR_TRY(check_accumulate(self, id, node));
    if (tsr_node_is(graph, node, "gather"))
        return check_gather(self, id, node);
    if (tsr_node_is(graph, node, "wait"))
        return check_wait(self, id, node);
    if (tsr_node_is(graph, node, "release"))
        return check_release(self, id, node);
    if (tsr_node_is(graph, node, "reduce"))
        return check_reduce(self, id, node);
    return TSR_OK;
}

tsr_status tsr_verify_sharded(const tsr_plan *plan) {
    tsr_status status = TSR_OK;
    const tsr_graph *graph = plan->graph;
    checker self = {.plan = plan, .graph = graph};
    TSR_TRY_GOTO(
        tsr_alloc(graph->values.count, sizeof(int32_t), (void **)&self.waits));
    TSR_TRY_GOTO(tsr_alloc(graph->values.count, sizeof(int32_t),
                           (void **)&self.releases));
    TSR_TRY_GOTO(tsr_alloc(graph->values.count, sizeof(int32_t),
                           (void **)&self.readers));
    TSR_TRY_GOTO(tsr_alloc(graph->params.count, sizeof *self.reduced,
                           (void **)&self.reduced));
    TSR_TRY_GOTO(tsr_lineages(graph, &self.lineages));
    count_uses(&self);
    for (int32_t n = 0; n < (int32_t)graph->nodes.count; n++)
        TSR_TRY_GOTO(check_node(&self, (tsr_node_id){n}));
    TSR_TRY_GOTO(check_all_reduced(&self));
    TSR_TRY_GOTO(tsr_verify_update(plan));
    status = tsr_verify_copies(plan);
done:
    tsr_free(self.lineages);
    tsr_free(self.reduced);
    tsr_free(self.readers);
    tsr_free(self.releases);
    tsr_free(self.waits);
    return status;
}
