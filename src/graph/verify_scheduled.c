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

typedef struct checker {
    const tsr_plan *plan;
    const tsr_graph *graph;
    tsr_order order;
    int32_t (*readers)[TSR_STREAM_CLASSES]; /* (values) latest reader on each
                                               stream; -1 */
} checker;

/* What a node reads is made before it starts. */
static tsr_status check_reads(const checker *self, tsr_node_id id) {
    const tsr_graph *graph = self->graph;
    const tsr_node *node = tsr_graph_node_at(graph, id);
    for (int32_t i = 0; i < node->inputs.count; i++) {
        tsr_value_id input = tsr_graph_inputs(graph, node)[i];
        tsr_node_id producer = tsr_graph_value(graph, input)->producer;
        char label[TSR_LABEL_BYTES];
        if (producer.index >= 0 &&
            !tsr_order_before(&self->order, producer, id))
            return tsr_violation(
                self->plan, "use before wait", id, input,
                "nothing orders it after %s on the %s stream",
                tsr_graph_node_label(graph, producer, label),
                tsr_stream_class_name(
                    tsr_graph_node_at(graph, producer)->stream));
    }
    return TSR_OK;
}

/* What a node ends has been read by all its readers before it starts. */
static tsr_status check_ends(const checker *self, tsr_node_id id) {
    const tsr_graph *graph = self->graph;
    const tsr_node *node = tsr_graph_node_at(graph, id);
    for (int32_t k = 0; k < tsr_ended_count(graph, node); k++) {
        tsr_value_id ended = tsr_ended_at(graph, node, k);
        for (int s = 0; tsr_has_value(ended) && s < TSR_STREAM_CLASSES; s++) {
            tsr_node_id reader = {self->readers[ended.index][s]};
            char label[TSR_LABEL_BYTES];
            if (reader.index >= 0 &&
                !tsr_order_before(&self->order, reader, id))
                return tsr_violation(
                    self->plan, "overwritten while read", id, ended,
                    "nothing orders it after its reader %s",
                    tsr_graph_node_label(graph, reader, label));
        }
    }
    return TSR_OK;
}

tsr_status tsr_verify_scheduled(const tsr_plan *plan) {
    tsr_status status = TSR_OK;
    const tsr_graph *graph = plan->graph;
    checker self = {.plan = plan, .graph = graph};

    for (int32_t n = 0; n < (int32_t)graph->nodes.count; n++)
        TSR_TRY(check_after(plan, (tsr_node_id){n}));
    TSR_TRY_GOTO(tsr_order_of(graph, &self.order));
    TSR_TRY_GOTO(tsr_alloc(graph->values.count, sizeof *self.readers,
                           (void **)&self.readers));
    for (size_t v = 0; v < graph->values.count; v++)
        for (int s = 0; s < TSR_STREAM_CLASSES; s++)
            self.readers[v][s] = -1;
    for (int32_t n = 0; n < (int32_t)graph->nodes.count; n++) {
        const tsr_node *node = &graph->nodes.data[n];
        TSR_TRY_GOTO(check_reads(&self, (tsr_node_id){n}));
        TSR_TRY_GOTO(check_ends(&self, (tsr_node_id){n}));
        for (int32_t i = 0; i < node->inputs.count; i++)
            self.readers[tsr_graph_inputs(graph, node)[i].index][node->stream] =
                n;
    }
done:
    tsr_free(self.readers);
    tsr_order_release(&self.order);
    return status;
}
