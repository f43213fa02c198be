#include "passes/rewrite.h"

#include "base/text.h"

tsr_value_id tsr_find_role(const tsr_graph *graph, tsr_role role,
                           tsr_param_id param) {
    for (size_t i = 0; i < graph->values.count; i++) {
        const tsr_value *value = &graph->values.data[i];
        if (value->role == role && value->param.index == param.index &&
            value->producer.index < 0)
            return (tsr_value_id){(int32_t)i};
    }
    return TSR_NO_VALUE;
}

tsr_status tsr_declare_for(tsr_graph *graph, tsr_param_id param,
                           const char *suffix, tsr_role role, int64_t count,
                           tsr_value_id *out_value) {
    tsr_text name = {0};
    const tsr_param *of = &graph->params.data[param.index];
    tsr_text_append(&name, "%s%s", of->name, suffix);
    tsr_status status = tsr_text_status(&name);
    if (status == TSR_OK) {
        tsr_value value = {.type = {.dtype = role == TSR_ROLE_PARAM_SHARD
                                                 ? of->type.dtype
                                                 : of->stored,
                                    .dims = 1,
                                    .shape = {count}},
                           .role = role,
                           .name = name.data,
                           .param = param,
                           .producer = TSR_NO_NODE};
        *out_value = tsr_graph_add_value(graph, &value);
        status = tsr_has_value(*out_value) ? TSR_OK : tsr_graph_status(graph);
    }
    tsr_text_release(&name);
    return status;
}

/* Gives `id` its new number, keeping the value where it is new. */
static void renumber(const tsr_graph *graph, tsr_value_id *id, int32_t *numbers,
                     tsr_value *kept, int32_t *count) {
    if (numbers[id->index] < 0) {
        numbers[id->index] = *count;
        kept[(*count)++] = graph->values.data[id->index];
    }
    id->index = numbers[id->index];
}

tsr_status tsr_compact(tsr_graph *graph) {
    tsr_status status = TSR_OK;
    size_t value_count = graph->values.count;
    int32_t *numbers = NULL, count = 0;
    bool *used = NULL;
    tsr_value *kept = NULL;

    TSR_TRY_GOTO(tsr_alloc(value_count, sizeof *numbers, (void **)&numbers));
    TSR_TRY_GOTO(tsr_alloc(value_count, sizeof *used, (void **)&used));
    TSR_TRY_GOTO(tsr_alloc(value_count, sizeof *kept, (void **)&kept));
    for (size_t n = 0; n < graph->nodes.count; n++)
        for (int32_t i = 0; i < graph->nodes.data[n].inputs.count; i++)
            used[tsr_inputs_of(graph, &graph->nodes.data[n])[i].index] = true;
    for (size_t i = 0; i < value_count; i++) {
        numbers[i] = -1;
        if (used[i] && graph->values.data[i].producer.index < 0) {
            tsr_value_id id = {(int32_t)i};
            renumber(graph, &id, numbers, kept, &count);
        }
    }
    for (size_t n = 0; n < graph->nodes.count; n++) {
        tsr_node *node = &graph->nodes.data[n];
        for (int32_t i = 0; i < node->outputs.count; i++)
            renumber(graph, &tsr_outputs_of(graph, node)[i], numbers, kept,
                     &count);
        for (int32_t i = 0; i < node->inputs.count; i++)
            tsr_inputs_of(graph, node)[i].index =
                numbers[tsr_inputs_of(graph, node)[i].index];
    }
    if (tsr_has_value(graph->loss))
        graph->loss.index = numbers[graph->loss.index];
    memcpy(graph->values.data, kept, (size_t)count * sizeof *kept);
    graph->values.count = (size_t)count;
done:
    tsr_free(kept);
    tsr_free(used);
    tsr_free(numbers);
    return status;
}
