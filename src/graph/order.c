#include "graph/order.h"

tsr_status tsr_order_create(const tsr_graph *graph, tsr_order *out_order) {
    *out_order = (tsr_order){.graph = graph};
    for (int s = 0; s < TSR_STREAM_CLASSES; s++)
        out_order->last[s] = -1;
    return tsr_alloc(graph->nodes.count + 1, sizeof *out_order->clock,
                     (void **)&out_order->clock);
}

void tsr_order_release(tsr_order *order) {
    tsr_free(order->clock);
    order->clock = NULL;
}

void tsr_order_join(tsr_order *order, tsr_node_id before) {
    int32_t *clock = order->clock[order->count - 1];
    const tsr_node *node = &order->graph->nodes.data[before.index];
    for (int s = 0; s < TSR_STREAM_CLASSES; s++)
        if (order->clock[before.index][s] > clock[s])
            clock[s] = order->clock[before.index][s];
    if (before.index > clock[node->stream])
        clock[node->stream] = before.index;
}

void tsr_order_push(tsr_order *order) {
    int32_t n = order->count++;
    const tsr_node *node = &order->graph->nodes.data[n];
    if (n > 0 && order->graph->nodes.data[n - 1].section != node->section)
        for (int s = 0; s < TSR_STREAM_CLASSES; s++)
            order->last[s] = -1;
    for (int s = 0; s < TSR_STREAM_CLASSES; s++)
        order->clock[n][s] = -1;
    if (order->last[node->stream] >= 0)
        tsr_order_join(order, (tsr_node_id){order->last[node->stream]});
    for (int32_t i = 0; i < node->after.count; i++) {
        tsr_node_id before = tsr_graph_after(order->graph, node)[i];
        if (before.index >= 0 && before.index < n &&
            order->graph->nodes.data[before.index].section == node->section)
            tsr_order_join(order, before);
    }
    order->last[node->stream] = n;
}

bool tsr_order_before(const tsr_order *order, tsr_node_id a, tsr_node_id b) {
    const tsr_node *first = &order->graph->nodes.data[a.index],
                   *second = &order->graph->nodes.data[b.index];
    if (first->section != second->section)
        return first->section < second->section;
    return order->clock[b.index][first->stream] >= a.index;
}

static bool frees(const tsr_graph *graph, const tsr_node *node) {
    return (tsr_graph_op(graph, node)->flags & TSR_OP_FREES) != 0;
}

int32_t tsr_ended_count(const tsr_graph *graph, const tsr_node *node) {
    return frees(graph, node) ? node->inputs.count : node->outputs.count;
}

tsr_value_id tsr_ended_at(const tsr_graph *graph, const tsr_node *node,
                          int32_t k) {
    return frees(graph, node) ? tsr_graph_inputs(graph, node)[k]
                              : tsr_graph_must_alias(graph, node, k);
}
