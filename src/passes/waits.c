#include "passes/waits.h"

#include "graph/order.h"

/* Latest nodes of each stream that must end before node n starts: makers of its
 * inputs, and other readers of what it ends. */
static void find_before(const tsr_graph *graph, int32_t n,
                        int32_t (*const readers)[TSR_STREAM_CLASSES],
                        int32_t before[TSR_STREAM_CLASSES]) {
    const tsr_node *node = &graph->nodes.data[n];
    for (int s = 0; s < TSR_STREAM_CLASSES; s++)
        before[s] = -1;
    for (int32_t i = 0; i < node->inputs.count; i++) {
        tsr_value_id input = tsr_graph_inputs(graph, node)[i];
        int32_t producer = graph->values.data[input.index].producer.index;
        if (producer >= 0 &&
            graph->nodes.data[producer].section == node->section &&
            producer > before[graph->nodes.data[producer].stream])
            before[graph->nodes.data[producer].stream] = producer;
    }
    for (int32_t k = 0; k < tsr_ended_count(graph, node); k++) {
        tsr_value_id ended = tsr_ended_at(graph, node, k);
        for (int s = 0; tsr_has_value(ended) && s < TSR_STREAM_CLASSES; s++)
            if (readers[ended.index][s] > before[s] &&
                graph->nodes.data[readers[ended.index][s]].section ==
                    node->section)
                before[s] = readers[ended.index][s];
    }
}

tsr_status tsr_waits_add(tsr_graph *graph) {
    tsr_status status = TSR_OK;
    tsr_order order = {0};
    int32_t(*readers)[TSR_STREAM_CLASSES] =
        NULL; /* (values) latest reader on each stream; -1 */
    for (size_t n = 0; n < graph->nodes.count; n++)
        graph->nodes.data[n].after.count = 0;
    graph->afters.count = 0;
    TSR_TRY_GOTO(tsr_order_create(graph, &order));
    TSR_TRY_GOTO(
        tsr_alloc(graph->values.count, sizeof *readers, (void **)&readers));
    for (size_t v = 0; v < graph->values.count; v++)
        for (int s = 0; s < TSR_STREAM_CLASSES; s++)
            readers[v][s] = -1;
    for (int32_t n = 0; n < (int32_t)graph->nodes.count; n++) {
        int32_t before[TSR_STREAM_CLASSES];
        tsr_order_push(&order);
        find_before(graph, n, readers, before);
        for (int s = 0; s < TSR_STREAM_CLASSES; s++) {
            if (before[s] < 0 ||
                tsr_order_before(&order, (tsr_node_id){before[s]},
                                 (tsr_node_id){n}))
                continue;
            TSR_TRY_GOTO(tsr_graph_add_after(graph, &graph->nodes.data[n],
                                             (tsr_node_id){before[s]}));
            tsr_order_join(&order, (tsr_node_id){before[s]});
        }
        const tsr_node *node = &graph->nodes.data[n];
        for (int32_t i = 0; i < node->inputs.count; i++)
            readers[tsr_inputs_of(graph, node)[i].index][node->stream] = n;
    }
done:
    tsr_free(readers);
    tsr_order_release(&order);
    return status;
}
