#include "graph/lineage.h"

static tsr_lineage lineage_of(const tsr_graph *graph, const tsr_node *node,
                              int output, const tsr_lineage *lineages) {
    tsr_value_id over = tsr_graph_must_alias(graph, node, output);
    if (tsr_has_value(over))
        return lineages[over.index];
    tsr_lineage made = {-1, -1};
    if (tsr_node_moves(graph, node))
        made.origin = lineages[tsr_graph_inputs(graph, node)[0].index].origin;
    return made;
}

tsr_status tsr_lineages(const tsr_graph *graph, tsr_lineage **out_lineages) {
    tsr_lineage *lineages;
    *out_lineages = NULL;
    TSR_TRY(
        tsr_alloc(graph->values.count, sizeof *lineages, (void **)&lineages));
    for (int32_t v = 0; v < (int32_t)graph->values.count; v++) {
        bool declared = graph->values.data[v].producer.index < 0;
        lineages[v] = declared ? (tsr_lineage){v, v} : (tsr_lineage){-1, -1};
    }
    for (size_t n = 0; n < graph->nodes.count; n++) {
        const tsr_node *node = &graph->nodes.data[n];
        for (int32_t i = 0; i < node->outputs.count; i++)
            lineages[tsr_graph_outputs(graph, node)[i].index] =
                lineage_of(graph, node, i, lineages);
    }
    *out_lineages = lineages;
    return TSR_OK;
}

tsr_value_id tsr_source_of(const tsr_graph *graph, tsr_value_id value) {
    for (;;) {
        tsr_node_id producer = tsr_graph_value(graph, value)->producer;
        if (producer.index < 0)
            return value;
        const tsr_node *node = tsr_graph_node_at(graph, producer);
        if (!tsr_node_moves(graph, node))
            return value;
        value = tsr_graph_inputs(graph, node)[0];
    }
}
