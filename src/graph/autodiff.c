/* The backward of a graph: nodes in reverse, each asked for its vector-Jacobian
 * product by its row. */
#include "graph/graph.h"

typedef struct autodiff {
    tsr_graph *graph;
    tsr_value_id *grads; /* (values) gradient so far, or none */
    bool *needed;        /* (values) on a way from a parameter to the loss */
    size_t value_count;  /* of the forward */
    size_t node_count;
    tsr_value_id *in_grads; /* (widest node) scratch */
    tsr_value_id *out_grads;
    bool *wanted;
    tsr_type_array types;
} autodiff;

/* A value needs a gradient when a parameter feeds it. Values are in the order
 * of their nodes. */
static void mark_needed(autodiff *self) {
    tsr_graph *graph = self->graph;
    for (size_t i = 0; i < self->value_count; i++)
        self->needed[i] = graph->values.data[i].role == TSR_ROLE_PARAMETER;
    for (size_t n = 0; n < self->node_count; n++) {
        const tsr_node *node = &graph->nodes.data[n];
        bool needed = false;
        for (int32_t i = 0; i < node->inputs.count; i++)
            needed =
                needed || self->needed[tsr_inputs_of(graph, node)[i].index];
        for (int32_t i = 0; needed && i < node->outputs.count; i++)
            if (!(tsr_graph_op(graph, node)->saved >> i & 1))
                self->needed[tsr_outputs_of(graph, node)[i].index] = true;
    }
}

/* Whether an earlier input of the node is the same value. */
static bool seen_before(const tsr_graph *graph, const tsr_node *node,
                        int32_t input) {
    const tsr_value_id *inputs = tsr_graph_inputs(graph, node);
    for (int32_t i = 0; i < input; i++)
        if (inputs[i].index == inputs[input].index)
            return true;
    return false;
}

/* The gradient of input i becomes its value's. A value that is taken twice
 * (add(x, x)) has a part from each input: the first one's holds what was found
 * before, the others' are added to it. */
static tsr_status keep_gradient(autodiff *self, const tsr_node *node,
                                tsr_value_id value, int32_t i) {
    tsr_value_id pair[2] = {self->in_grads[i], self->grads[value.index]};
    if (seen_before(self->graph, node, i) && tsr_has_value(pair[0]) &&
        tsr_has_value(pair[1]))
        self->grads[value.index] =
            tsr_graph_node(self->graph, "add", pair, 2, NULL, 0, NULL);
    else if (tsr_has_value(pair[0]))
        self->grads[value.index] = pair[0];
    return tsr_graph_status(self->graph);
}

static tsr_status differentiate_node(autodiff *self, const tsr_node *node,
                                     bool is_loss) {
    tsr_graph *graph = self->graph;
    const tsr_op *op = tsr_graph_op(graph, node);
    tsr_vjp vjp = {.graph = graph,
                   .out_grads = self->out_grads,
                   .wanted = self->wanted,
                   .in_grads = self->in_grads};
    tsr_value_id *operands =
        NULL; /* a copy: the graph's lists move while the row adds nodes */
    tsr_attr *attrs = NULL;
    tsr_status status = TSR_OK;
    bool has_gradient = is_loss, wanted = false;

    for (int32_t i = 0; i < node->outputs.count; i++) {
        self->out_grads[i] = self->grads[tsr_outputs_of(graph, node)[i].index];
        has_gradient = has_gradient || tsr_has_value(self->out_grads[i]);
    }
    for (int32_t i = 0; i < node->inputs.count; i++) {
        tsr_value_id input = tsr_inputs_of(graph, node)[i];
        self->wanted[i] = self->needed[input.index];
        self->in_grads[i] = seen_before(graph, node, i)
                                ? TSR_NO_VALUE
                                : self->grads[input.index];
        wanted = wanted || self->wanted[i];
    }
    if (!has_gradient || !wanted)
        return TSR_OK;
    if (!op->vjp)
        return tsr_error(TSR_UNSUPPORTED,
                         "op '%s' (layer '%s') lies between a parameter and "
                         "the loss but has no gradient",
                         op->name, node->layer);

    size_t inputs = (size_t)node->inputs.count,
           outputs = (size_t)node->outputs.count,
           attr_count = (size_t)node->attrs.count;
    TSR_TRY_GOTO(
        tsr_alloc(inputs + outputs, sizeof *operands, (void **)&operands));
    TSR_TRY_GOTO(tsr_alloc(attr_count, sizeof *attrs, (void **)&attrs));
    TSR_TRY_GOTO(tsr_graph_view(graph, node, &self->types, &vjp.view));
    memcpy(operands, tsr_graph_inputs(graph, node), inputs * sizeof *operands);
    memcpy(operands + inputs, tsr_graph_outputs(graph, node),
           outputs * sizeof *operands);
    if (attr_count)
        memcpy(attrs, vjp.view.attrs, attr_count * sizeof *attrs);
    vjp.view.attrs = attrs;
    vjp.inputs = operands;
    vjp.outputs = operands + inputs;
    tsr_graph_set_layer(graph, node->layer);
    TSR_TRY_GOTO(op->vjp(&vjp));
    TSR_TRY_GOTO(tsr_graph_status(graph));
    for (int32_t i = 0; i < (int32_t)inputs; i++)
        if (self->wanted[i])
            TSR_TRY_GOTO(keep_gradient(self, node, operands[i], i));
done:
    tsr_free(attrs);
    tsr_free(operands);
    return status;
}

/* Gives each parameter's gradient its role. */
static tsr_status name_gradients(autodiff *self) {
    for (size_t i = 0; i < self->value_count; i++) {
        tsr_value *value = &self->graph->values.data[i];
        if (value->role != TSR_ROLE_PARAMETER)
            continue;
        if (!tsr_has_value(self->grads[i]))
            return tsr_error(TSR_INVALID_ARGUMENT,
                             "the loss does not depend on parameter '%s'",
                             value->name);
        tsr_value *grad = tsr_value_of(self->graph, self->grads[i]);
        if (grad->role == TSR_ROLE_FULL_GRAD)
            return tsr_error(
                TSR_UNSUPPORTED, "parameters '%s' and '%s' share one gradient",
                value->name, self->graph->params.data[grad->param.index].name);
        /* Earlier parts of a sum of gradients are full gradients too: they lie
         * in the same memory. */
        for (tsr_value_id part = self->grads[i]; tsr_has_value(part);) {
            tsr_value *at = tsr_value_of(self->graph, part);
            at->role = TSR_ROLE_FULL_GRAD;
            at->param = value->param;
            tsr_node *node = &self->graph->nodes.data[at->producer.index];
            int output = 0;
            while (tsr_outputs_of(self->graph, node)[output].index !=
                   part.index)
                output++;
            part = tsr_graph_must_alias(self->graph, node, output);
        }
    }
    return TSR_OK;
}

static size_t widest_node(const tsr_graph *graph) {
    size_t widest = TSR_MAX_OUTPUTS;
    for (size_t n = 0; n < graph->nodes.count; n++) {
        size_t inputs = (size_t)graph->nodes.data[n].inputs.count,
               outputs = (size_t)graph->nodes.data[n].outputs.count;
        widest = inputs > widest ? inputs : widest;
        widest = outputs > widest ? outputs : widest;
    }
    return widest;
}

tsr_status tsr_graph_differentiate(tsr_graph *graph) {
    tsr_status status = TSR_OK;
    autodiff self = {.graph = graph,
                     .value_count = graph->values.count,
                     .node_count = graph->nodes.count};
    size_t widest = widest_node(graph);

    TSR_TRY(tsr_graph_status(graph));
    if (!tsr_has_value(graph->loss) ||
        graph->values.data[graph->loss.index].producer.index < 0)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "the graph has no loss that a node makes");
    TSR_TRY_GOTO(
        tsr_alloc(self.value_count, sizeof *self.grads, (void **)&self.grads));
    TSR_TRY_GOTO(tsr_alloc(self.value_count, sizeof *self.needed,
                           (void **)&self.needed));
    TSR_TRY_GOTO(
        tsr_alloc(widest, sizeof *self.in_grads, (void **)&self.in_grads));
    TSR_TRY_GOTO(
        tsr_alloc(widest, sizeof *self.out_grads, (void **)&self.out_grads));
    TSR_TRY_GOTO(tsr_alloc(widest, sizeof *self.wanted, (void **)&self.wanted));
    for (size_t i = 0; i < self.value_count; i++)
        self.grads[i] = TSR_NO_VALUE;
    mark_needed(&self);

    tsr_graph_set_phase(graph, TSR_BACKWARD);
    int32_t loss_node = graph->values.data[graph->loss.index].producer.index;
    for (int32_t n = (int32_t)self.node_count - 1; n >= 0; n--) {
        tsr_node node = graph->nodes.data[n]; /* a copy: the list moves */
        TSR_TRY_GOTO(differentiate_node(&self, &node, n == loss_node));
    }
    TSR_TRY_GOTO(name_gradients(&self));
done:
    tsr_graph_set_phase(graph, TSR_FORWARD);
    TSR_ARRAY_FREE(&self.types);
    tsr_free(self.wanted);
    tsr_free(self.out_grads);
    tsr_free(self.in_grads);
    tsr_free(self.needed);
    tsr_free(self.grads);
    return status;
}
