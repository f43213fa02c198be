/* Verification, and its first stage: every node fits its row, every value is
 * made before it is used. */
#include "graph/verify.h"

#include <stdarg.h>
#include <stdio.h>

tsr_status tsr_violation(const tsr_plan *plan, const char *rule,
                         tsr_node_id node, tsr_value_id value,
                         const char *format, ...) {
    char detail[512], node_label[TSR_LABEL_BYTES] = "plan",
                      value_label[TSR_LABEL_BYTES] = "";
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(detail, sizeof detail, format, arguments);
    va_end(arguments);
    if (node.index >= 0)
        tsr_graph_node_label(plan->graph, node, node_label);
    if (tsr_has_value(value))
        tsr_graph_value_label(plan->graph, value, value_label);
    return tsr_error(TSR_INVALID_DATA, "%s: node %s%s%s: %s", rule, node_label,
                     value_label[0] ? ", value " : "", value_label, detail);
}

tsr_status tsr_order_of(const tsr_graph *graph, tsr_order *out_order) {
    TSR_TRY(tsr_order_create(graph, out_order));
    for (size_t n = 0; n < graph->nodes.count; n++)
        tsr_order_push(out_order);
    return TSR_OK;
}

typedef struct checker {
    const tsr_plan *plan;
    tsr_graph *graph;
    int32_t *ended_by; /* (values) the node that wrote over or freed it; -1 */
    int32_t *uses; /* (values) how often the node in hand takes it; else 0 */
} checker;

/* ---- operands ---- */

static tsr_status check_made(const checker *self, tsr_node_id id,
                             tsr_value_id input) {
    const tsr_graph *graph = self->graph;
    const tsr_value *value = tsr_graph_value(graph, input);
    tsr_node_id producer = value->producer;
    char label[TSR_LABEL_BYTES];
    if (producer.index >= id.index)
        return tsr_violation(self->plan, "use before definition", id, input,
                             "it is made by %s, later in the schedule",
                             tsr_graph_node_label(graph, producer, label));
    if (producer.index < 0)
        return value->role != TSR_ROLE_ACTIVATION &&
                       value->role != TSR_ROLE_GATHERED &&
                       value->role != TSR_ROLE_FULL_GRAD
                   ? TSR_OK
                   : tsr_violation(self->plan, "use before definition", id,
                                   input, "no node makes it");
    tsr_section made = tsr_graph_node_at(graph, producer)->section;
    if (made != tsr_graph_node_at(graph, id)->section)
        return tsr_violation(
            self->plan, "section crossed", id, input,
            "it was made in section %s; only declared values live across "
            "sections",
            tsr_section_name(made));
    return TSR_OK;
}

/* A declared value begins each section anew: its storage holds what the section
 * before left in it. */
static tsr_status check_alive(const checker *self, tsr_node_id id,
                              tsr_value_id input) {
    const tsr_graph *graph = self->graph;
    tsr_node_id end = {self->ended_by[input.index]};
    if (end.index < 0 || tsr_graph_node_at(graph, end)->section !=
                             tsr_graph_node_at(graph, id)->section)
        return TSR_OK;
    char label[TSR_LABEL_BYTES];
    bool freed = (tsr_graph_op(graph, tsr_graph_node_at(graph, end))->flags &
                  TSR_OP_FREES) != 0;
    return tsr_violation(
        self->plan, freed ? "use after release" : "use after overwrite", id,
        input, "%s ended it before", tsr_graph_node_label(graph, end, label));
}

/* What a node writes over it takes once, and may be written at all. */
static tsr_status check_overwritten(const checker *self, tsr_node_id id,
                                    tsr_value_id input) {
    tsr_role role = tsr_graph_value(self->graph, input)->role;
    if (self->uses[input.index] > 1)
        return tsr_violation(self->plan, "overwritten while read", id, input,
                             "the node writes over it and takes it %d times",
                             self->uses[input.index]);
    if (role == TSR_ROLE_INPUT || role == TSR_ROLE_CONSTANT ||
        role == TSR_ROLE_PARAMETER)
        return tsr_violation(self->plan, "read-only value written", id, input,
                             "a value of role %s is never written",
                             tsr_role_name(role));
    return TSR_OK;
}

/* What is written over a shard, a state or an accumulator is one; what is new
 * has a role that memory can be made for. */
static tsr_status check_role(const checker *self, tsr_node_id id,
                             tsr_value_id output, tsr_value_id over) {
    const tsr_graph *graph = self->graph;
    const tsr_value *value = tsr_graph_value(graph, output);
    if (tsr_has_value(over)) {
        const tsr_value *base = tsr_graph_value(graph, over);
        if (value->role != base->role ||
            value->param.index != base->param.index)
            return tsr_violation(self->plan, "wrong role", id, output,
                                 "it is written over %%%d, a %s, and must be "
                                 "one, of the same parameter",
                                 over.index, tsr_role_name(base->role));
        return TSR_OK;
    }
    if (tsr_node_moves(graph, tsr_graph_node_at(graph, id)))
        return TSR_OK; /* what it is a copy of: tsr_verify_places */
    if (value->role == TSR_ROLE_ACTIVATION ||
        value->role == TSR_ROLE_FULL_GRAD ||
        (value->role == TSR_ROLE_GATHERED &&
         tsr_node_is(graph, tsr_graph_node_at(graph, id), "gather")))
        return TSR_OK;
    return tsr_violation(
        self->plan, "wrong role", id, output, "%s makes no new %s",
        tsr_graph_op(graph, tsr_graph_node_at(graph, id))->name,
        tsr_role_name(value->role));
}

static tsr_status check_operands(checker *self, tsr_node_id id) {
    const tsr_graph *graph = self->graph;
    const tsr_node *node = tsr_graph_node_at(graph, id);
    const tsr_value_id *inputs = tsr_graph_inputs(graph, node);
    for (int32_t i = 0; i < node->inputs.count; i++) {
        TSR_TRY(check_made(self, id, inputs[i]));
        TSR_TRY(check_alive(self, id, inputs[i]));
    }
    for (int32_t i = 0; i < node->inputs.count; i++)
        self->uses[inputs[i].index]++;
    for (int32_t i = 0; i < node->outputs.count; i++) {
        tsr_value_id over = tsr_graph_must_alias(graph, node, i);
        if (tsr_has_value(over))
            TSR_TRY(check_overwritten(self, id, over));
        TSR_TRY(check_role(self, id, tsr_graph_outputs(graph, node)[i], over));
    }
    for (int32_t i = 0; i < node->inputs.count; i++)
        self->uses[inputs[i].index] = 0;
    for (int32_t k = 0; k < tsr_ended_count(graph, node); k++)
        if (tsr_has_value(tsr_ended_at(graph, node, k)))
            self->ended_by[tsr_ended_at(graph, node, k).index] = id.index;
    return TSR_OK;
}

/* ---- nodes and values ---- */

static tsr_status check_node(const tsr_plan *plan, tsr_node_id id) {
    const tsr_graph *graph = plan->graph;
    const tsr_node *node = tsr_graph_node_at(graph, id);
    /* Inference needs the graph's scratch; nothing else of it changes. */
    tsr_status status = tsr_graph_check_node(plan->graph, node);
    if (status == TSR_OUT_OF_MEMORY)
        return status;
    if (status != TSR_OK) {
        char reason[TSR_MESSAGE_BYTES];
        snprintf(reason, sizeof reason, "%s", tsr_last_error());
        return tsr_violation(plan, "type mismatch", id, TSR_NO_VALUE, "%s",
                             reason);
    }
    if (node->stream != tsr_graph_op(graph, node)->stream)
        return tsr_violation(
            plan, "wrong stream", id, TSR_NO_VALUE,
            "it is on %s, but its op belongs to %s%s",
            tsr_stream_class_name(node->stream),
            tsr_stream_class_name(tsr_graph_op(graph, node)->stream),
            tsr_graph_op(graph, node)->flags & TSR_OP_COLLECTIVE
                ? ": the order of collectives could differ between ranks"
                : "");
    return TSR_OK;
}

/* What is gathered is what the model computes with, the rest what is stored. A
 * parameter that is stored as it is used has no master. */
static tsr_status check_shard_dtype(const tsr_plan *plan, tsr_value_id id,
                                    const tsr_param *param) {
    const tsr_value *value = tsr_graph_value(plan->graph, id);
    tsr_dtype dtype =
        value->role == TSR_ROLE_PARAM_SHARD ? param->type.dtype : param->stored;
    if (value->role == TSR_ROLE_MASTER && !tsr_has_master(param))
        return tsr_violation(plan, "wrong role", value->producer, id,
                             "its parameter is stored as it is used, in %s, "
                             "and has no master",
                             tsr_dtype_name(dtype));
    if (value->type.dtype != dtype)
        return tsr_violation(plan, "type mismatch", value->producer, id,
                             "a %s of its parameter is %s",
                             tsr_role_name(value->role), tsr_dtype_name(dtype));
    return TSR_OK;
}

/* Roles that belong to a parameter name one, and shards have its size. */
static tsr_status check_value(const tsr_plan *plan, tsr_value_id id) {
    const tsr_graph *graph = plan->graph;
    const tsr_value *value = tsr_graph_value(graph, id);
    if (value->param.index >= (int32_t)graph->params.count ||
        (value->role >= TSR_ROLE_PARAMETER && value->param.index < 0))
        return tsr_violation(plan, "wrong parameter", value->producer, id,
                             "a %s must name its parameter",
                             tsr_role_name(value->role));
    TSR_TRY(tsr_verify_host_role(plan, id));
    if (value->role != TSR_ROLE_PARAM_SHARD &&
        value->role != TSR_ROLE_GRAD_SHARD && value->role != TSR_ROLE_MASTER)
        return TSR_OK;
    const tsr_param *param = &graph->params.data[value->param.index];
    int64_t count = tsr_shard_count(param, plan->target.world);
    if (value->type.dims != 1 || value->type.shape[0] != count)
        return tsr_violation(plan, "type mismatch", value->producer, id,
                             "a shard of its parameter has %lld elements",
                             (long long)count);
    return check_shard_dtype(plan, id, param);
}

static tsr_status check_section_order(const tsr_plan *plan, tsr_node_id id) {
    const tsr_node *node = tsr_graph_node_at(plan->graph, id);
    if (id.index == 0 || node->section >= node[-1].section)
        return TSR_OK;
    return tsr_violation(
        plan, "section order", id, TSR_NO_VALUE, "section %s comes after %s",
        tsr_section_name(node->section), tsr_section_name(node[-1].section));
}

tsr_status tsr_verify_graph(const tsr_plan *plan) {
    tsr_status status = TSR_OK;
    tsr_graph *graph = plan->graph;
    checker self = {.plan = plan, .graph = graph};
    TSR_TRY_GOTO(tsr_alloc(graph->values.count, sizeof *self.ended_by,
                           (void **)&self.ended_by));
    TSR_TRY_GOTO(
        tsr_alloc(graph->values.count, sizeof *self.uses, (void **)&self.uses));
    for (size_t v = 0; v < graph->values.count; v++) {
        self.ended_by[v] = -1;
        TSR_TRY_GOTO(check_value(plan, (tsr_value_id){(int32_t)v}));
    }
    for (int32_t n = 0; n < (int32_t)graph->nodes.count; n++) {
        TSR_TRY_GOTO(check_section_order(plan, (tsr_node_id){n}));
        TSR_TRY_GOTO(check_node(plan, (tsr_node_id){n}));
        TSR_TRY_GOTO(tsr_verify_places(plan, (tsr_node_id){n}));
        TSR_TRY_GOTO(check_operands(&self, (tsr_node_id){n}));
    }
done:
    tsr_free(self.uses);
    tsr_free(self.ended_by);
    return status;
}

tsr_status tsr_plan_verify(const tsr_plan *plan, tsr_stage stage) {
    TSR_TRY(tsr_graph_status(plan->graph));
    TSR_TRY(tsr_verify_graph(plan));
    if (stage >= TSR_STAGE_SHARDED)
        TSR_TRY(tsr_verify_sharded(plan));
    if (stage >= TSR_STAGE_SCHEDULED)
        TSR_TRY(tsr_verify_scheduled(plan));
    if (stage >= TSR_STAGE_PLACED)
        TSR_TRY(tsr_verify_placed(plan));
    return TSR_OK;
}
