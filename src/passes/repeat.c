/* Copies the micro-step that writes gradients and loss into one that adds to
 * them, for the later micro-steps of a step. */
#include "passes/rewrite.h"
#include "tessera/passes.h"

/* A copy of `node` in MICRO_NEXT whose made values are new and whose
 * accumulating ops accumulate. */
static tsr_status copy_node(tsr_rewrite *rewrite, const tsr_node *node,
                            int32_t *copies) {
    tsr_graph *graph = rewrite->graph;
    tsr_node copy = *node;
    int32_t operand_count = node->inputs.count + node->outputs.count;
    copy.section = TSR_MICRO_NEXT;
    TSR_TRY(TSR_ARRAY_RESERVE(&graph->operands, (size_t)operand_count));
    TSR_TRY(TSR_ARRAY_RESERVE(&graph->attrs, (size_t)node->attrs.count));
    copy.inputs.first = (int32_t)graph->operands.count;
    for (int32_t i = 0; i < node->inputs.count; i++) {
        int32_t input = tsr_inputs_of(graph, node)[i].index;
        TSR_ARRAY_PUSH(
            &graph->operands,
            ((tsr_value_id){copies[input] >= 0 ? copies[input] : input}));
    }
    copy.outputs.first = (int32_t)graph->operands.count;
    for (int32_t i = 0; i < node->outputs.count; i++) {
        tsr_value_id output = tsr_outputs_of(graph, node)[i];
        tsr_value value = *tsr_value_of(graph, output);
        tsr_value_id made = tsr_graph_add_value(graph, &value);
        TSR_TRY(tsr_graph_status(graph));
        copies[output.index] = made.index;
        TSR_ARRAY_PUSH(&graph->operands, made);
    }
    copy.attrs.first = (int32_t)graph->attrs.count;
    for (int32_t i = 0; i < node->attrs.count; i++) {
        tsr_attr attr = tsr_graph_attrs(graph, node)[i];
        if (strcmp(attr.name, "accumulate") == 0)
            attr.integer = 1;
        TSR_ARRAY_PUSH(&graph->attrs, attr);
    }
    return tsr_rewrite_keep(rewrite, &copy);
}

static tsr_status run(tsr_plan *plan, const tsr_training *training) {
    tsr_status status = TSR_OK;
    tsr_graph *graph = plan->graph;
    tsr_rewrite rewrite = {.graph = graph};
    size_t value_count = graph->values.count;
    int32_t *copies = NULL; /* (values) its copy, or -1 */

    if (training->micro_steps < 1)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "%d micro-steps a step: at least 1 is needed",
                         training->micro_steps);
    if (training->micro_steps == 1)
        return TSR_OK;
    TSR_TRY_GOTO(tsr_alloc(value_count, sizeof *copies, (void **)&copies));
    for (size_t i = 0; i < value_count; i++)
        copies[i] = -1;
    for (int section = 0; section < TSR_SECTIONS; section++) {
        for (size_t n = 0; n < graph->nodes.count; n++) {
            const tsr_node *node = &graph->nodes.data[n];
            if (node->section == (tsr_section)section)
                TSR_TRY_GOTO(tsr_rewrite_keep(&rewrite, node));
            else if (node->section == TSR_MICRO_FIRST &&
                     section == TSR_MICRO_NEXT)
                TSR_TRY_GOTO(copy_node(&rewrite, node, copies));
        }
    }
    TSR_TRY_GOTO(tsr_rewrite_finish(&rewrite));
    status = tsr_compact(graph);
done:
    tsr_free(copies);
    tsr_rewrite_release(&rewrite);
    return status;
}

const tsr_pass *tsr_pass_repeat(void) {
    static const tsr_pass pass = {.name = "repeat",
                                  .requires_ = TSR_HAS_UPDATE,
                                  .provides = TSR_HAS_MICRO_NEXT,
                                  .conflicts =
                                      TSR_HAS_MICRO_NEXT | TSR_HAS_SCHEDULE,
                                  .run = run};
    return &pass;
}
