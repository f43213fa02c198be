#include "graph/graph.h"

#include <stdio.h>

tsr_status tsr_graph_create(const tsr_op_table *ops, tsr_graph **out_graph) {
    tsr_graph *graph;
    *out_graph = NULL;
    TSR_TRY(tsr_alloc(1, sizeof *graph, (void **)&graph));
    /* Spans of no elements still point into a list, so that none may be NULL.
     */
    tsr_status status = TSR_ARRAY_RESERVE(&graph->operands, 1);
    if (status == TSR_OK)
        status = TSR_ARRAY_RESERVE(&graph->attrs, 1);
    if (status == TSR_OK)
        status = TSR_ARRAY_RESERVE(&graph->afters, 1);
    if (status != TSR_OK) {
        tsr_graph_release(graph);
        return status;
    }
    graph->ops = ops;
    graph->loss = TSR_NO_VALUE;
    graph->layer = "";
    *out_graph = graph;
    return TSR_OK;
}

void tsr_graph_release(tsr_graph *graph) {
    if (!graph)
        return;
    for (size_t i = 0; i < graph->strings.count; i++)
        tsr_free(graph->strings.data[i]);
    TSR_ARRAY_FREE(&graph->values);
    TSR_ARRAY_FREE(&graph->nodes);
    TSR_ARRAY_FREE(&graph->params);
    TSR_ARRAY_FREE(&graph->operands);
    TSR_ARRAY_FREE(&graph->attrs);
    TSR_ARRAY_FREE(&graph->afters);
    TSR_ARRAY_FREE(&graph->strings);
    TSR_ARRAY_FREE(&graph->types);
    tsr_free(graph->status_message);
    tsr_free(graph);
}

/* ---- failures ---- */

tsr_status tsr_graph_fail(tsr_graph *graph, tsr_status status) {
    if (status == TSR_OK || graph->status != TSR_OK)
        return graph->status;
    graph->status = status;
    const char *message = tsr_last_error();
    (void)tsr_strdup(
        message, strlen(message),
        &graph->status_message); /* without memory the code alone must do */
    return status;
}

tsr_status tsr_graph_status(const tsr_graph *graph) {
    if (graph->status == TSR_OK)
        return TSR_OK;
    return tsr_error(graph->status, "%s",
                     graph->status_message ? graph->status_message
                                           : "out of memory");
}

/* ---- strings ---- */

const char *tsr_graph_intern(tsr_graph *graph, const char *text,
                             size_t length) {
    if (length == 0)
        return "";
    /* Names repeat in runs (the same layer node after node), so a look at the
     * latest few finds most. */
    size_t recent = graph->strings.count < 16 ? graph->strings.count : 16;
    for (size_t i = graph->strings.count - recent; i < graph->strings.count;
         i++)
        if (strncmp(graph->strings.data[i], text, length) == 0 &&
            graph->strings.data[i][length] == '\0')
            return graph->strings.data[i];
    char *copy = NULL;
    tsr_status status = TSR_ARRAY_RESERVE(&graph->strings, 1);
    if (status == TSR_OK)
        status = tsr_strdup(text, length, &copy);
    if (status != TSR_OK) {
        tsr_graph_fail(graph, status);
        return NULL;
    }
    TSR_ARRAY_PUSH(&graph->strings, copy);
    return copy;
}

void tsr_graph_set_layer(tsr_graph *graph, const char *layer) {
    if (strpbrk(layer, "\"\n\\")) {
        tsr_graph_fail(graph, tsr_error(TSR_INVALID_ARGUMENT,
                                        "a layer's name must be without "
                                        "quotes, backslashes and line ends"));
        return;
    }
    const char *copy = tsr_graph_intern(graph, layer, strlen(layer));
    graph->layer = copy ? copy : "";
}

void tsr_graph_set_phase(tsr_graph *graph, tsr_phase phase) {
    graph->phase = phase;
}

/* ---- values ---- */

tsr_value_id tsr_graph_add_value(tsr_graph *graph, const tsr_value *value) {
    if (graph->status != TSR_OK)
        return TSR_NO_VALUE;
    const char *name = tsr_graph_intern(graph, value->name ? value->name : "",
                                        value->name ? strlen(value->name) : 0);
    if (!name ||
        tsr_graph_fail(graph, TSR_ARRAY_RESERVE(&graph->values, 1)) != TSR_OK)
        return TSR_NO_VALUE;
    TSR_ARRAY_PUSH(&graph->values, *value);
    graph->values.data[graph->values.count - 1].name = name;
    return (tsr_value_id){(int32_t)graph->values.count - 1};
}

static tsr_status check_type(const char *name, const tsr_type *type) {
    int64_t count = 1;
    if (tsr_dtype_bytes(type->dtype) == 0 || type->dims < 0 ||
        type->dims > TSR_MAX_DIMS)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "'%s' has an unknown dtype or more than %d dimensions",
                         name, TSR_MAX_DIMS);
    for (int i = 0; i < type->dims; i++) {
        /* 2^48 elements: far above any model, far below what overflows byte
         * sums. */
        if (type->shape[i] < 1 || type->shape[i] > (INT64_C(1) << 48) / count)
            return tsr_error(TSR_INVALID_ARGUMENT,
                             "'%s': dimension %d is %lld; each must be at "
                             "least 1, all together at most 2^48",
                             name, i, (long long)type->shape[i]);
        count *= type->shape[i];
    }
    return TSR_OK;
}

tsr_status tsr_check_stored(const tsr_param *param) {
    if (param->stored == param->type.dtype ||
        (param->stored == TSR_F32 && param->type.dtype == TSR_BF16))
        return TSR_OK;
    return tsr_error(TSR_INVALID_ARGUMENT,
                     "parameter '%s' is used in %s and stored in %s; it must "
                     "be stored alike, or in f32 when it is used in bf16",
                     param->name, tsr_dtype_name(param->type.dtype),
                     tsr_dtype_name(param->stored));
}

static tsr_status check_new_name(const tsr_graph *graph, const char *name) {
    if (!name || !name[0] || strpbrk(name, "\"\n\\"))
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "a declared value needs a name without quotes, "
                         "backslashes and line ends");
    if (tsr_has_value(tsr_graph_find(graph, name)))
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "the name '%s' is declared twice", name);
    return TSR_OK;
}

tsr_value_id tsr_graph_param(tsr_graph *graph, const tsr_param *param) {
    if (graph->status != TSR_OK)
        return TSR_NO_VALUE;
    tsr_status status = check_new_name(graph, param->name);
    if (status == TSR_OK)
        status = check_type(param->name, &param->type);
    if (status == TSR_OK)
        status = tsr_check_stored(param);
    if (status == TSR_OK && param->group < 0)
        status = tsr_error(TSR_INVALID_ARGUMENT,
                           "parameter '%s': group %d is negative", param->name,
                           param->group);
    if (status == TSR_OK)
        status = TSR_ARRAY_RESERVE(&graph->params, 1);
    tsr_value value = {.type = param->type,
                       .role = TSR_ROLE_PARAMETER,
                       .name = param->name,
                       .param = {(int32_t)graph->params.count},
                       .producer = TSR_NO_NODE};
    if (tsr_graph_fail(graph, status) != TSR_OK)
        return TSR_NO_VALUE;
    tsr_value_id id = tsr_graph_add_value(graph, &value);
    if (!tsr_has_value(id))
        return id;
    TSR_ARRAY_PUSH(&graph->params, *param);
    tsr_param *kept = &graph->params.data[graph->params.count - 1];
    kept->name = tsr_value_of(graph, id)->name;
    if (kept->granule < 1)
        kept->granule = 1;
    return id;
}

tsr_value_id tsr_graph_declare(tsr_graph *graph, const char *name,
                               tsr_role role, const tsr_type *type) {
    if (graph->status != TSR_OK)
        return TSR_NO_VALUE;
    tsr_status status = check_new_name(graph, name);
    if (status == TSR_OK)
        status = check_type(name, type);
    if (status == TSR_OK && role != TSR_ROLE_INPUT &&
        role != TSR_ROLE_CONSTANT && role != TSR_ROLE_STATE)
        status = tsr_error(
            TSR_INVALID_ARGUMENT,
            "'%s': only inputs, constants and states are declared this way",
            name);
    if (tsr_graph_fail(graph, status) != TSR_OK)
        return TSR_NO_VALUE;
    tsr_value value = {.type = *type,
                       .role = role,
                       .name = name,
                       .param = TSR_NO_PARAM,
                       .producer = TSR_NO_NODE};
    return tsr_graph_add_value(graph, &value);
}

void tsr_graph_set_loss(tsr_graph *graph, tsr_value_id loss) {
    if (graph->status != TSR_OK)
        return;
    if (loss.index < 0 || loss.index >= (int)graph->values.count ||
        tsr_type_count(&graph->values.data[loss.index].type) != 1 ||
        graph->values.data[loss.index].type.dtype != TSR_F32)
        tsr_graph_fail(graph, tsr_error(TSR_INVALID_ARGUMENT,
                                        "the loss must be one f32 value"));
    else
        graph->loss = loss;
}

/* ---- reading ---- */

tsr_value_id tsr_graph_loss(const tsr_graph *graph) { return graph->loss; }
const tsr_op_table *tsr_graph_ops(const tsr_graph *graph) { return graph->ops; }
int tsr_graph_value_count(const tsr_graph *graph) {
    return (int)graph->values.count;
}
int tsr_graph_node_count(const tsr_graph *graph) {
    return (int)graph->nodes.count;
}
int tsr_graph_param_count(const tsr_graph *graph) {
    return (int)graph->params.count;
}
const tsr_value *tsr_graph_value(const tsr_graph *graph, tsr_value_id value) {
    return &graph->values.data[value.index];
}
const tsr_node *tsr_graph_node_at(const tsr_graph *graph, tsr_node_id node) {
    return &graph->nodes.data[node.index];
}
const tsr_param *tsr_graph_param_at(const tsr_graph *graph,
                                    tsr_param_id param) {
    return &graph->params.data[param.index];
}
const tsr_value_id *tsr_graph_inputs(const tsr_graph *graph,
                                     const tsr_node *node) {
    return graph->operands.data + node->inputs.first;
}
const tsr_value_id *tsr_graph_outputs(const tsr_graph *graph,
                                      const tsr_node *node) {
    return graph->operands.data + node->outputs.first;
}
const tsr_node_id *tsr_graph_after(const tsr_graph *graph,
                                   const tsr_node *node) {
    return graph->afters.data + node->after.first;
}
const tsr_attr *tsr_graph_attrs(const tsr_graph *graph, const tsr_node *node) {
    return graph->attrs.data + node->attrs.first;
}
const tsr_op *tsr_graph_op(const tsr_graph *graph, const tsr_node *node) {
    return tsr_op_table_row(graph->ops, node->op);
}

tsr_value_id tsr_graph_find(const tsr_graph *graph, const char *name) {
    for (size_t i = 0; i < graph->values.count; i++) {
        const tsr_value *value = &graph->values.data[i];
        if (value->producer.index < 0 && strcmp(value->name, name) == 0)
            return (tsr_value_id){(int32_t)i};
    }
    return TSR_NO_VALUE;
}

char *tsr_graph_node_label(const tsr_graph *graph, tsr_node_id node,
                           char buffer[TSR_LABEL_BYTES]) {
    const tsr_node *at = tsr_graph_node_at(graph, node);
    snprintf(buffer, TSR_LABEL_BYTES, "n%d %s%s%s%s", node.index,
             tsr_graph_op(graph, at)->name, at->layer[0] ? " (" : "", at->layer,
             at->layer[0] ? ")" : "");
    return buffer;
}

char *tsr_graph_value_label(const tsr_graph *graph, tsr_value_id value,
                            char buffer[TSR_LABEL_BYTES]) {
    const tsr_value *at = tsr_graph_value(graph, value);
    const char *name = at->name[0] ? at->name
                       : at->param.index >= 0
                           ? graph->params.data[at->param.index].name
                           : "";
    snprintf(buffer, TSR_LABEL_BYTES, name[0] ? "%%%d \"%s\"" : "%%%d",
             value.index, name);
    return buffer;
}
