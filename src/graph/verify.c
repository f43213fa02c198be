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

static tsr_status check_inputs(const tsr_plan *plan, tsr_node_id id,
                               const int32_t *ended_by) {
    const tsr_graph *graph = plan->graph;
    const tsr_node *node = tsr_graph_node_at(graph, id);
    for (int32_t i = 0; i < node->inputs.count; i++) {
        tsr_value_id input = tsr_graph_inputs(graph, node)[i];
        const tsr_value *value = tsr_graph_value(graph, input);
        tsr_node_id producer = value->producer;
        char label[TSR_LABEL_BYTES];
        if (producer.index >= id.index)
            return tsr_violation(plan, "use before definition", id, input,
                                 "it is made by %s, later in the schedule",
                                 tsr_graph_node_label(graph, producer, label));
        if (producer.index < 0 && value->role == TSR_ROLE_ACTIVATION)
            return tsr_violation(plan, "use before definition", id, input,
                                 "no node makes it");
        if (producer.index >= 0 &&
            tsr_graph_node_at(graph, producer)->section != node->section)
            return tsr_violation(
                plan, "section crossed", id, input,
                "it was made in section %s; only declared values live across "
                "sections",
                tsr_section_name(tsr_graph_node_at(graph, producer)->section));
        /* A declared value begins each section anew: its storage holds what the
         * section before left in it. */
        int32_t end = ended_by[input.index];
        if (end >= 0 && tsr_graph_node_at(graph, (tsr_node_id){end})->section ==
                            node->section) {
            bool freed =
                (tsr_graph_op(graph,
                              tsr_graph_node_at(graph, (tsr_node_id){end}))
                     ->flags &
                 TSR_OP_FREES) != 0;
            return tsr_violation(
                plan, freed ? "use after release" : "use after overwrite", id,
                input, "%s ended it before",
                tsr_graph_node_label(graph, (tsr_node_id){end}, label));
        }
    }
    return TSR_OK;
}

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

/* Roles that belong to a parameter name one, and shards have its size. */
static tsr_status check_value(const tsr_plan *plan, tsr_value_id id) {
    const tsr_graph *graph = plan->graph;
    const tsr_value *value = tsr_graph_value(graph, id);
    if (value->param.index >= (int32_t)graph->params.count ||
        (value->role >= TSR_ROLE_PARAMETER && value->param.index < 0))
        return tsr_violation(plan, "wrong parameter", value->producer, id,
                             "a %s must name its parameter",
                             tsr_role_name(value->role));
    if (value->role != TSR_ROLE_PARAM_SHARD &&
        value->role != TSR_ROLE_GRAD_SHARD)
        return TSR_OK;
    int64_t count = tsr_shard_count(&graph->params.data[value->param.index],
                                    plan->target.world);
    if (value->type.dims != 1 || value->type.shape[0] != count)
        return tsr_violation(plan, "type mismatch", value->producer, id,
                             "a shard of its parameter has %lld elements",
                             (long long)count);
    return TSR_OK;
}

tsr_status tsr_verify_graph(const tsr_plan *plan) {
    tsr_status status = TSR_OK;
    tsr_graph *graph = plan->graph;
    int32_t *ended_by =
        NULL; /* (values) the node that wrote over or freed it; -1 */
    TSR_TRY_GOTO(
        tsr_alloc(graph->values.count, sizeof *ended_by, (void **)&ended_by));
    for (size_t v = 0; v < graph->values.count; v++)
        ended_by[v] = -1;
    for (size_t v = 0; v < graph->values.count; v++)
        TSR_TRY_GOTO(check_value(plan, (tsr_value_id){(int32_t)v}));
    for (int32_t n = 0; n < (int32_t)graph->nodes.count; n++) {
        tsr_node_id id = {n};
        const tsr_node *node = &graph->nodes.data[n];
        if (n > 0 && node->section < graph->nodes.data[n - 1].section) {
            status = tsr_violation(
                plan, "section order", id, TSR_NO_VALUE,
                "section %s comes after %s", tsr_section_name(node->section),
                tsr_section_name(graph->nodes.data[n - 1].section));
            goto done;
        }
        TSR_TRY_GOTO(check_node(plan, id));
        TSR_TRY_GOTO(check_inputs(plan, id, ended_by));
        for (int32_t i = 0; i < node->inputs.count; i++)
            if (tsr_node_consumes(graph, node, i))
                ended_by[tsr_inputs_of(graph, node)[i].index] = n;
    }
done:
    tsr_free(ended_by);
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
