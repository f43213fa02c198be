/* Nodes: checking, appending, rewriting. */
#include <stdio.h>

#include "graph/graph.h"

/* Whether `name` is among the row's attributes, and whether those are real. */
static bool attr_allowed(const tsr_op *op, const tsr_attr *attr) {
    size_t length = strlen(attr->name);
    for (const char *at = op->attrs ? op->attrs : ""; *at;) {
        size_t word = strcspn(at, " ");
        bool real = word > 0 && at[word - 1] == '~';
        if (word - (real ? 1 : 0) == length &&
            strncmp(at, attr->name, length) == 0)
            return real || !attr->is_real;
        at += word + strspn(at + word, " ");
    }
    return false;
}

static tsr_status check_call(const tsr_op_view *view) {
    const tsr_op *op = view->op;
    size_t most =
        op->flags & TSR_OP_VARIADIC ? SIZE_MAX : (size_t)op->max_inputs;
    if (view->input_count < (size_t)op->min_inputs || view->input_count > most)
        return tsr_error(TSR_INVALID_ARGUMENT, "%s: %zu inputs do not fit %s",
                         op->name, view->input_count, op->signature);
    for (size_t i = 0; i < view->attr_count; i++)
        if (!attr_allowed(op, &view->attrs[i]))
            return tsr_error(
                TSR_INVALID_ARGUMENT,
                "%s: attribute '%s' is unknown or of the wrong kind; known: %s",
                op->name, view->attrs[i].name, op->attrs ? op->attrs : "none");
    return TSR_OK;
}

/* Runs inference into the room behind the types of the inputs and of the named
 * outputs. */
static tsr_status infer(tsr_graph *graph, tsr_op_view *view) {
    size_t room = view->input_count > TSR_MAX_OUTPUTS ? view->input_count
                                                      : TSR_MAX_OUTPUTS;
    size_t output_count = 0;
    TSR_TRY(check_call(view));
    TSR_TRY(TSR_ARRAY_RESERVE(&graph->types, room));
    view->inputs = graph->types.data;
    view->outputs = graph->types.data + view->input_count;
    tsr_type *outputs = graph->types.data + graph->types.count;
    memset(outputs, 0, room * sizeof *outputs);
    tsr_status status = view->op->infer(view, outputs, &output_count);
    if (status != TSR_OK)
        return tsr_error_at(status, "%s: %s", view->op->name,
                            view->op->signature);
    view->outputs = outputs;
    view->output_count = output_count;
    return TSR_OK;
}

static tsr_status push_types(tsr_graph *graph, const tsr_value_id *ids,
                             size_t count) {
    TSR_TRY(TSR_ARRAY_RESERVE(&graph->types, count));
    for (size_t i = 0; i < count; i++) {
        if (ids[i].index < 0 || ids[i].index >= (int)graph->values.count)
            return tsr_error(TSR_INVALID_ARGUMENT,
                             "operand %zu is no value of this graph", i);
        TSR_ARRAY_PUSH(&graph->types, graph->values.data[ids[i].index].type);
    }
    return TSR_OK;
}

static tsr_status push_operand_types(tsr_graph *graph,
                                     const tsr_value_id *inputs,
                                     size_t input_count,
                                     const tsr_value_id *outputs,
                                     size_t output_count) {
    graph->types.count = 0;
    TSR_TRY(push_types(graph, inputs, input_count));
    return push_types(graph, outputs, output_count);
}

static void type_text(const tsr_type *type, char buffer[96]) {
    int used = snprintf(buffer, 96, "%s[", tsr_dtype_name(type->dtype));
    for (int i = 0; i < type->dims && used < 96; i++)
        used += snprintf(buffer + used, (size_t)(96 - used),
                         i ? ", %lld" : "%lld", (long long)type->shape[i]);
    if (used < 95)
        snprintf(buffer + used, (size_t)(96 - used), "]");
}

static tsr_status check_outputs(tsr_graph *graph, const tsr_op_view *view,
                                const tsr_value_id *outputs, size_t count) {
    if (count != view->output_count)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "%s gives %zu outputs, %zu are named", view->op->name,
                         view->output_count, count);
    for (size_t i = 0; i < count; i++) {
        char given[96], inferred[96], label[TSR_LABEL_BYTES];
        const tsr_type *type = &graph->values.data[outputs[i].index].type;
        if (tsr_type_equal(type, &view->outputs[i]))
            continue;
        type_text(type, given);
        type_text(&view->outputs[i], inferred);
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "%s: output %s is %s, but %s follows from its inputs",
                         view->op->name,
                         tsr_graph_value_label(graph, outputs[i], label), given,
                         inferred);
    }
    return TSR_OK;
}

tsr_status tsr_graph_check_node(tsr_graph *graph, const tsr_node *node) {
    tsr_op_view view = {.op = tsr_graph_op(graph, node),
                        .input_count = (size_t)node->inputs.count,
                        .output_count = (size_t)node->outputs.count,
                        .attrs = tsr_graph_attrs(graph, node),
                        .attr_count = (size_t)node->attrs.count};
    TSR_TRY(push_operand_types(graph, tsr_inputs_of(graph, node),
                               view.input_count, tsr_outputs_of(graph, node),
                               view.output_count));
    TSR_TRY(infer(graph, &view));
    return check_outputs(graph, &view, tsr_outputs_of(graph, node),
                         (size_t)node->outputs.count);
}

tsr_status tsr_graph_view(const tsr_graph *graph, const tsr_node *node,
                          tsr_type_array *types, tsr_op_view *out_view) {
    size_t inputs = (size_t)node->inputs.count,
           outputs = (size_t)node->outputs.count;
    types->count = 0;
    TSR_TRY(
        TSR_ARRAY_RESERVE(types, inputs + outputs + 1)); /* + 1: never NULL */
    for (size_t i = 0; i < inputs; i++)
        TSR_ARRAY_PUSH(
            types,
            graph->values.data[tsr_graph_inputs(graph, node)[i].index].type);
    for (size_t i = 0; i < outputs; i++)
        TSR_ARRAY_PUSH(
            types,
            graph->values.data[tsr_graph_outputs(graph, node)[i].index].type);
    *out_view = (tsr_op_view){.op = tsr_graph_op(graph, node),
                              .inputs = types->data,
                              .input_count = inputs,
                              .outputs = types->data + inputs,
                              .output_count = outputs,
                              .attrs = tsr_graph_attrs(graph, node),
                              .attr_count = (size_t)node->attrs.count};
    return TSR_OK;
}

/* ---- appending ---- */

static tsr_status push_operands(tsr_graph *graph, const tsr_value_id *ids,
                                size_t count, tsr_span *out_span) {
    TSR_TRY(TSR_ARRAY_RESERVE(&graph->operands, count));
    *out_span = (tsr_span){(int32_t)graph->operands.count, (int32_t)count};
    for (size_t i = 0; i < count; i++)
        TSR_ARRAY_PUSH(&graph->operands, ids[i]);
    return TSR_OK;
}

static tsr_status push_attrs(tsr_graph *graph, const tsr_attr *attrs,
                             size_t count, tsr_span *out_span) {
    TSR_TRY(TSR_ARRAY_RESERVE(&graph->attrs, count));
    *out_span = (tsr_span){(int32_t)graph->attrs.count, (int32_t)count};
    for (size_t i = 0; i < count; i++) {
        tsr_attr attr = attrs[i];
        attr.name = tsr_graph_intern(graph, attr.name, strlen(attr.name));
        if (!attr.name)
            return tsr_graph_status(graph);
        TSR_ARRAY_PUSH(&graph->attrs, attr);
    }
    return TSR_OK;
}

static tsr_status push_outputs(tsr_graph *graph, const tsr_op_view *view,
                               const tsr_value_id *inputs, tsr_node_id node,
                               tsr_span *out_span) {
    size_t count = view->output_count;
    TSR_TRY(TSR_ARRAY_RESERVE(&graph->operands, count));
    *out_span = (tsr_span){(int32_t)graph->operands.count, (int32_t)count};
    for (size_t i = 0; i < count; i++) {
        tsr_value value = {.type = view->outputs[i],
                           .name = "",
                           .param = TSR_NO_PARAM,
                           .producer = node};
        int base_at =
            view->op->must_alias ? view->op->must_alias(view, (int)i) : -1;
        if (view->op->flags & TSR_OP_OFFLOADS)
            value.place = TSR_PLACE_HOST;
        if (view->op->flags & (TSR_OP_OFFLOADS | TSR_OP_RELOADS))
            base_at = 0;
        if (base_at >= 0) { /* what is written over a shard, a state or an
                               accumulator, or is a copy of it, is one */
            const tsr_value *base = tsr_graph_value(graph, inputs[base_at]);
            value.role = base->role;
            value.param = base->param;
        }
        tsr_value_id id = tsr_graph_add_value(graph, &value);
        if (!tsr_has_value(id))
            return tsr_graph_status(graph);
        TSR_ARRAY_PUSH(&graph->operands, id);
    }
    return TSR_OK;
}

tsr_status tsr_graph_append(tsr_graph *graph, const tsr_node_desc *desc,
                            tsr_node_id *out_node) {
    TSR_TRY(tsr_graph_status(graph));
    int row = tsr_op_table_find(graph->ops, desc->op, strlen(desc->op));
    if (row < 0)
        return tsr_error(TSR_NOT_FOUND, "op '%s' is not in the op table",
                         desc->op);
    const tsr_op *op = tsr_op_table_row(graph->ops, row);
    tsr_node_id id = {(int32_t)graph->nodes.count};
    tsr_node node = {.op = row,
                     .section = graph->section,
                     .phase = graph->phase,
                     .stream = op->stream,
                     .layer = graph->layer};
    tsr_op_view view = {.op = op,
                        .input_count = desc->input_count,
                        .output_count = desc->outputs ? desc->output_count : 0,
                        .attrs = desc->attrs,
                        .attr_count = desc->attr_count};

    TSR_TRY(push_operand_types(graph, desc->inputs, desc->input_count,
                               desc->outputs, view.output_count));
    TSR_TRY(infer(graph, &view));
    if (desc->outputs)
        TSR_TRY(check_outputs(graph, &view, desc->outputs, desc->output_count));
    TSR_TRY(TSR_ARRAY_RESERVE(&graph->nodes, 1));
    TSR_TRY(
        push_operands(graph, desc->inputs, desc->input_count, &node.inputs));
    TSR_TRY(push_attrs(graph, desc->attrs, desc->attr_count, &node.attrs));
    if (desc->outputs) {
        TSR_TRY(push_operands(graph, desc->outputs, desc->output_count,
                              &node.outputs));
        for (size_t i = 0; i < desc->output_count; i++)
            tsr_value_of(graph, desc->outputs[i])->producer = id;
    } else {
        TSR_TRY(push_outputs(graph, &view, desc->inputs, id, &node.outputs));
    }
    TSR_ARRAY_PUSH(&graph->nodes, node);
    if (out_node)
        *out_node = id;
    return TSR_OK;
}

tsr_value_id tsr_graph_node(tsr_graph *graph, const char *op,
                            const tsr_value_id *inputs, size_t input_count,
                            const tsr_attr *attrs, size_t attr_count,
                            tsr_value_id *outputs) {
    tsr_node_id id;
    if (graph->status != TSR_OK)
        return TSR_NO_VALUE;
    while (input_count > 0 && !tsr_has_value(inputs[input_count - 1]))
        input_count--;
    tsr_node_desc desc = {.op = op,
                          .inputs = inputs,
                          .input_count = input_count,
                          .attrs = attrs,
                          .attr_count = attr_count};
    if (tsr_graph_fail(graph, tsr_graph_append(graph, &desc, &id)) != TSR_OK)
        return TSR_NO_VALUE;
    const tsr_node *node = tsr_graph_node_at(graph, id);
    const tsr_value_id *made = tsr_graph_outputs(graph, node);
    for (int32_t i = 0; outputs && i < node->outputs.count; i++)
        outputs[i] = made[i];
    return node->outputs.count > 0 ? made[0] : TSR_NO_VALUE;
}

/* ---- aliases ---- */

static tsr_value_id alias(const tsr_graph *graph, const tsr_node *node,
                          int output,
                          int (*row)(const tsr_op_view *view, int output)) {
    if (!row)
        return TSR_NO_VALUE;
    /* Rows decide by counts and attributes alone, so the view needs no types.
     */
    tsr_op_view view = {.op = tsr_graph_op(graph, node),
                        .input_count = (size_t)node->inputs.count,
                        .output_count = (size_t)node->outputs.count,
                        .attrs = tsr_graph_attrs(graph, node),
                        .attr_count = (size_t)node->attrs.count};
    int input = row(&view, output);
    return input < 0 || input >= node->inputs.count
               ? TSR_NO_VALUE
               : tsr_graph_inputs(graph, node)[input];
}

tsr_value_id tsr_graph_must_alias(const tsr_graph *graph, const tsr_node *node,
                                  int output) {
    return alias(graph, node, output, tsr_graph_op(graph, node)->must_alias);
}

tsr_value_id tsr_graph_may_alias(const tsr_graph *graph, const tsr_node *node,
                                 int output) {
    return alias(graph, node, output, tsr_graph_op(graph, node)->may_alias);
}

/* ---- rewriting ---- */

tsr_status tsr_graph_set_nodes(tsr_graph *graph, const tsr_node *order,
                               size_t node_count) {
    if (node_count > graph->nodes.count)
        TSR_TRY(
            TSR_ARRAY_RESERVE(&graph->nodes, node_count - graph->nodes.count));
    for (size_t i = 0; i < graph->values.count; i++)
        graph->values.data[i].producer = TSR_NO_NODE;
    memcpy(graph->nodes.data, order, node_count * sizeof *order);
    graph->nodes.count = node_count;
    for (size_t i = 0; i < node_count; i++)
        for (int32_t j = 0; j < order[i].outputs.count; j++)
            graph->values.data[tsr_outputs_of(graph, &order[i])[j].index]
                .producer = (tsr_node_id){(int32_t)i};
    return TSR_OK;
}

tsr_status tsr_graph_add_after(tsr_graph *graph, tsr_node *node,
                               tsr_node_id before) {
    int32_t end = node->after.first + node->after.count;
    TSR_TRY(TSR_ARRAY_RESERVE(&graph->afters, (size_t)node->after.count + 1));
    if (node->after.count == 0 ||
        end != (int32_t)graph->afters
                   .count) { /* the span cannot grow where it lies: move it */
        int32_t first = (int32_t)graph->afters.count;
        for (int32_t i = 0; i < node->after.count; i++)
            TSR_ARRAY_PUSH(&graph->afters,
                           graph->afters.data[node->after.first + i]);
        node->after.first = first;
    }
    TSR_ARRAY_PUSH(&graph->afters, before);
    node->after.count++;
    return TSR_OK;
}
