/* Third stage: streams are ordered wherever data needs it. */
#include "graph/verify.h"

static tsr_status check_after(const tsr_plan *plan, tsr_node_id id) {
    const tsr_graph *graph = plan->graph;
    const tsr_node *node = tsr_graph_node_at(graph, id);
    for (int32_t i = 0; i < node->after.count; i++) {
        tsr_node_id before = tsr_graph_after(graph, node)[i];
        char label[TSR_LABEL_BYTES];
        if (before.index >= id.index)
            return tsr_violation(plan, "wait for the future", id, TSR_NO_VALUE,
                                 "it waits for %s, which is enqueued later",
                                 tsr_graph_node_label(graph, before, label));
        if (tsr_graph_node_at(graph, before)->section != node->section)
            return tsr_violation(plan, "wait across sections", id, TSR_NO_VALUE,
                                 "it waits for %s of another section",
                                 tsr_graph_node_label(graph, before, label));
    }
    return TSR_OK;
}

tsr_status tsr_verify_scheduled(const tsr_plan *plan) {
    tsr_status status = TSR_OK;
    const tsr_graph *graph = plan->graph;
    tsr_order order = {0};
    int32_t(*readers)[TSR_STREAM_CLASSES] =
        NULL; /* (values) latest reader on each stream; -1 */
    char label[TSR_LABEL_BYTES];

    for (int32_t n = 0; n < (int32_t)graph->nodes.count; n++)
        TSR_TRY(check_after(plan, (tsr_node_id){n}));
    TSR_TRY_GOTO(tsr_order_of(graph, &order));
    TSR_TRY_GOTO(
        tsr_alloc(graph->values.count, sizeof *readers, (void **)&readers));
    for (size_t v = 0; v < graph->values.count; v++)
        for (int s = 0; s < TSR_STREAM_CLASSES; s++)
            readers[v][s] = -1;
    for (int32_t n = 0; n < (int32_t)graph->nodes.count; n++) {
        const tsr_node *node = &graph->nodes.data[n];
        for (int32_t i = 0; i < node->inputs.count; i++) {
            tsr_value_id input = tsr_graph_inputs(graph, node)[i];
            tsr_node_id producer = tsr_graph_value(graph, input)->producer;
            if (producer.index >= 0 &&
                !tsr_order_before(&order, producer, (tsr_node_id){n})) {
                status = tsr_violation(
                    plan, "use before wait", (tsr_node_id){n}, input,
                    "nothing orders it after %s on the %s stream",
                    tsr_graph_node_label(graph, producer, label),
                    tsr_stream_class_name(
                        graph->nodes.data[producer.index].stream));
                goto done;
            }
            for (int s = 0;
                 tsr_node_consumes(graph, node, i) && s < TSR_STREAM_CLASSES;
                 s++) {
                tsr_node_id reader = {readers[input.index][s]};
                if (reader.index < 0 ||
                    tsr_order_before(&order, reader, (tsr_node_id){n}))
                    continue;
                status = tsr_violation(
                    plan, "overwritten while read", (tsr_node_id){n}, input,
                    "nothing orders it after its reader %s",
                    tsr_graph_node_label(graph, reader, label));
                goto done;
            }
        }
        for (int32_t i = 0; i < node->inputs.count; i++)
            readers[tsr_graph_inputs(graph, node)[i].index][node->stream] = n;
    }
done:
    tsr_free(readers);
    tsr_order_release(&order);
    return status;
}
