/* Graphs: which parameters they named, and their hold on copies. */
#include "zero/eager.h"

void zero_graph_release(zero_graph *graph) {
    if (!graph)
        return;
    tsr_map_release(&graph->index);
    tsr_map_release(&graph->tensor_index);
    TSR_ARRAY_FREE(&graph->bindings);
    TSR_ARRAY_FREE(&graph->tensors);
    tsr_free(graph);
}

tsr_status zero_find_graph(const tsr_zero *zero, int64_t id,
                           zero_graph **out_graph) {
    int32_t at = tsr_map_get(&zero->graph_index, id);
    if (at < 0)
        return tsr_error(TSR_NOT_FOUND, "graph %lld is not registered",
                         (long long)id);
    *out_graph = zero->graphs.data[at];
    return TSR_OK;
}

tsr_status zero_find_binding(const tsr_zero *zero, int64_t graph, int64_t id,
                             tsr_zero_binding **out_binding) {
    zero_graph *found = NULL;
    TSR_TRY(zero_find_graph(zero, graph, &found));
    int32_t binding = tsr_map_get(&found->index, id);
    if (binding < 0)
        return tsr_error(TSR_NOT_FOUND,
                         "graph %lld did not name parameter %lld",
                         (long long)graph, (long long)id);
    *out_binding = &found->bindings.data[binding];
    return TSR_OK;
}

static tsr_status fill_graph(const tsr_zero *zero, zero_graph *graph,
                             int64_t id, const int64_t *ids, size_t count) {
    TSR_TRY(TSR_ARRAY_RESERVE(&graph->bindings, count)); /* it never grows */
    for (size_t i = 0; i < count; i++) {
        zero_param *param = NULL;
        TSR_TRY(zero_find_param(zero, ids[i], &param));
        if (tsr_map_get(&graph->index, ids[i]) >= 0)
            continue;
        TSR_TRY(
            tsr_map_set(&graph->index, ids[i], (int32_t)graph->bindings.count));
        TSR_ARRAY_PUSH(&graph->bindings,
                       ((tsr_zero_binding){.graph = id, .id = ids[i]}));
    }
    return TSR_OK;
}

tsr_status zero_unbind_all(tsr_zero *zero, zero_graph *graph) {
    for (size_t b = 0; b < graph->bindings.count; b++)
        TSR_TRY(zero_unbind(zero, &graph->bindings.data[b]));
    return TSR_OK;
}

/* Ends what the graph holds; it may then be released. */
static tsr_status end_graph(tsr_zero *zero, zero_graph *graph) {
    TSR_TRY(zero_unbind_all(zero, graph));
    return zero_drop_tensors(zero, graph);
}

static tsr_status add_graph(tsr_zero *zero, int64_t id, zero_graph *graph) {
    TSR_TRY(TSR_ARRAY_RESERVE(&zero->graphs, 1));
    TSR_TRY(tsr_map_set(&zero->graph_index, id, (int32_t)zero->graphs.count));
    TSR_ARRAY_PUSH(&zero->graphs, graph);
    return TSR_OK;
}

tsr_status tsr_zero_register_graph(tsr_zero *zero, int64_t id,
                                   const int64_t *ids, size_t count) {
    tsr_status status = TSR_OK;
    zero_graph *graph = NULL;
    TSR_TRY(zero_given(zero, __func__, "zero"));
    TSR_TRY(zero_given(count == 0 || ids, __func__, "ids"));
    int32_t index = tsr_map_get(&zero->graph_index, id);
    TSR_TRY_GOTO(tsr_alloc(1, sizeof *graph, (void **)&graph));
    TSR_TRY_GOTO(fill_graph(zero, graph, id, ids, count));
    if (index >= 0) {
        TSR_TRY_GOTO(end_graph(zero, zero->graphs.data[index]));
        zero_graph_release(zero->graphs.data[index]);
        zero->graphs.data[index] = graph;
    } else {
        TSR_TRY_GOTO(add_graph(zero, id, graph));
    }
    graph = NULL;
done:
    zero_graph_release(graph);
    return status;
}

tsr_status tsr_zero_reset(tsr_zero *zero, tsr_stream *stream) {
    TSR_TRY(zero_check_call(zero, stream, __func__));
    TSR_TRY(zero_after(zero, zero->gather.stream, stream));
    TSR_TRY(zero_after(zero, zero->in.stream, stream));
    for (size_t g = 0; g < zero->graphs.count; g++)
        TSR_TRY(end_graph(zero, zero->graphs.data[g]));
    for (size_t g = 0; g < zero->graphs.count; g++)
        zero_graph_release(zero->graphs.data[g]);
    zero->graphs.count = 0;
    tsr_map_release(&zero->graph_index);
    return TSR_OK;
}
