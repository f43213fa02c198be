/* Device and host. Only offload and reload cross between them, and what they
 * give is the same thing in the other place. What is changed in a copy of a
 * declared value is written back to where it is declared. */
#include "graph/lineage.h"
#include "graph/verify.h"

/* ---- first stage: places ---- */

static const char *place_name(tsr_place place) {
    return place == TSR_PLACE_HOST ? "host" : "device";
}

/* The place that the row of `node` wants of input i. */
static tsr_place wanted_place(const tsr_op *op, int32_t i) {
    bool on_host = op->flags & TSR_OP_OFFLOADS  ? i == 1
                   : op->flags & TSR_OP_RELOADS ? true
                                                : false;
    return on_host ? TSR_PLACE_HOST : TSR_PLACE_DEVICE;
}

static tsr_status check_input(const tsr_plan *plan, tsr_node_id id, int32_t i) {
    const tsr_graph *graph = plan->graph;
    const tsr_node *node = tsr_graph_node_at(graph, id);
    const tsr_op *op = tsr_graph_op(graph, node);
    tsr_value_id input = tsr_graph_inputs(graph, node)[i];
    tsr_place place = tsr_graph_value(graph, input)->place;
    if (place == wanted_place(op, i))
        return TSR_OK;
    if (op->flags & TSR_OP_RELOADS)
        return tsr_violation(plan, "wrong place", id, input,
                             "it is on the device, a reload takes what is on "
                             "the host");
    if ((op->flags & TSR_OP_OFFLOADS) && i == 1)
        return tsr_violation(plan, "wrong place", id, input,
                             "it is on the device, an offload writes over "
                             "what is on the host");
    if (op->flags & TSR_OP_OFFLOADS)
        return tsr_violation(plan, "value on the host", id, input,
                             "it is there already: nothing to offload");
    return tsr_violation(plan, "value on the host", id, input,
                         "%s runs on the device: reload it first", op->name);
}

static tsr_status check_output(const tsr_plan *plan, tsr_node_id id,
                               tsr_value_id output) {
    const tsr_graph *graph = plan->graph;
    const tsr_node *node = tsr_graph_node_at(graph, id);
    const tsr_op *op = tsr_graph_op(graph, node);
    const tsr_value *value = tsr_graph_value(graph, output);
    tsr_place made =
        op->flags & TSR_OP_OFFLOADS ? TSR_PLACE_HOST : TSR_PLACE_DEVICE;
    if (value->place != made)
        return tsr_violation(plan, "wrong place", id, output,
                             "it is said to be on the %s, but %s makes values "
                             "on the %s",
                             place_name(value->place), op->name,
                             place_name(made));
    if (!tsr_node_moves(graph, node))
        return TSR_OK;
    tsr_value_id from = tsr_graph_inputs(graph, node)[0];
    const tsr_value *source = tsr_graph_value(graph, from);
    if (value->role != source->role ||
        value->param.index != source->param.index)
        return tsr_violation(plan, "wrong role", id, output,
                             "it is a copy of %%%d, a %s, and must be one, of "
                             "the same parameter",
                             from.index, tsr_role_name(source->role));
    return TSR_OK;
}

tsr_status tsr_verify_places(const tsr_plan *plan, tsr_node_id id) {
    const tsr_node *node = tsr_graph_node_at(plan->graph, id);
    for (int32_t i = 0; i < node->inputs.count; i++)
        TSR_TRY(check_input(plan, id, i));
    for (int32_t i = 0; i < node->outputs.count; i++)
        TSR_TRY(
            check_output(plan, id, tsr_graph_outputs(plan->graph, node)[i]));
    return TSR_OK;
}

tsr_status tsr_verify_host_role(const tsr_plan *plan, tsr_value_id id) {
    const tsr_value *value = tsr_graph_value(plan->graph, id);
    if (value->place == TSR_PLACE_DEVICE ||
        (value->role != TSR_ROLE_PARAMETER &&
         value->role != TSR_ROLE_GATHERED && value->role != TSR_ROLE_FULL_GRAD))
        return TSR_OK;
    return tsr_violation(plan, "wrong place", value->producer, id,
                         "a %s is never on the host: peers use it; shards, "
                         "states and activations can be",
                         tsr_role_name(value->role));
}

/* ---- second stage: copies of declared values ---- */

typedef struct checker {
    const tsr_plan *plan;
    const tsr_graph *graph;
    tsr_lineage *lineages; /* (values) */
    bool *changed;         /* (values) differs from what is declared, which has
                              not been written yet */
    bool *saved;           /* (values) its contents reach a declared value, or
                              are written over by what does */
} checker;

/* Writing over what a value was copied from keeps the declared value one
 * thing: a moment never becomes another. */
static tsr_status check_written_over(const checker *self, tsr_node_id id) {
    const tsr_graph *graph = self->graph;
    const tsr_node *node = tsr_graph_node_at(graph, id);
    if (!tsr_node_moves(graph, node) || node->inputs.count < 2)
        return TSR_OK;
    tsr_value_id from = tsr_graph_inputs(graph, node)[0],
                 into = tsr_graph_inputs(graph, node)[1];
    if (self->lineages[from.index].origin == self->lineages[into.index].origin)
        return TSR_OK;
    return tsr_violation(self->plan, "wrong source", id, into,
                         "it is written over by %%%d, which did not come from "
                         "it",
                         from.index);
}

static void find_changed(checker *self, const tsr_node *node) {
    const tsr_graph *graph = self->graph;
    for (int32_t i = 0; i < node->outputs.count; i++) {
        int32_t output = tsr_graph_outputs(graph, node)[i].index;
        const tsr_lineage *lineage = &self->lineages[output];
        tsr_value_id over = tsr_graph_must_alias(graph, node, i);
        if (lineage->origin < 0 || lineage->storage >= 0)
            continue;
        if (tsr_node_moves(graph, node))
            self->changed[output] =
                self->changed[tsr_graph_inputs(graph, node)[0].index];
        else if (tsr_has_value(over))
            self->changed[output] = true;
    }
}

static void find_saved(checker *self, const tsr_node *node) {
    const tsr_graph *graph = self->graph;
    for (int32_t i = 0; i < node->outputs.count; i++) {
        int32_t output = tsr_graph_outputs(graph, node)[i].index;
        tsr_value_id over = tsr_graph_must_alias(graph, node, i);
        bool saved = self->saved[output] || self->lineages[output].storage >= 0;
        if (tsr_node_moves(graph, node))
            self->saved[tsr_graph_inputs(graph, node)[0].index] |= saved;
        else if (tsr_has_value(over))
            self->saved[over.index] |= saved;
    }
}

static tsr_status check_saved(const checker *self, tsr_value_id id) {
    const tsr_graph *graph = self->graph;
    tsr_value_id origin = {self->lineages[id.index].origin};
    char label[TSR_LABEL_BYTES];
    if (!self->changed[id.index] || self->saved[id.index])
        return TSR_OK;
    bool on_host = tsr_graph_value(graph, origin)->place == TSR_PLACE_HOST;
    return tsr_violation(
        self->plan, "write lost", tsr_graph_value(graph, id)->producer, id,
        on_host ? "it is a changed copy of %s, which no offload writes over "
                  "with it"
                : "it is a changed copy of %s, which is on the device, where "
                  "nothing writes it back",
        tsr_graph_value_label(graph, origin, label));
}

tsr_status tsr_verify_copies(const tsr_plan *plan) {
    tsr_status status = TSR_OK;
    const tsr_graph *graph = plan->graph;
    checker self = {.plan = plan, .graph = graph};
    int32_t node_count = (int32_t)graph->nodes.count;
    TSR_TRY_GOTO(tsr_lineages(graph, &self.lineages));
    TSR_TRY_GOTO(tsr_alloc(graph->values.count, sizeof *self.changed,
                           (void **)&self.changed));
    TSR_TRY_GOTO(tsr_alloc(graph->values.count, sizeof *self.saved,
                           (void **)&self.saved));
    for (int32_t n = 0; n < node_count; n++) {
        TSR_TRY_GOTO(check_written_over(&self, (tsr_node_id){n}));
        find_changed(&self, &graph->nodes.data[n]);
    }
    for (int32_t n = node_count - 1; n >= 0; n--)
        find_saved(&self, &graph->nodes.data[n]);
    for (int32_t v = 0; v < (int32_t)graph->values.count; v++)
        TSR_TRY_GOTO(check_saved(&self, (tsr_value_id){v}));
done:
    tsr_free(self.saved);
    tsr_free(self.changed);
    tsr_free(self.lineages);
    return status;
}
