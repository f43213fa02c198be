/* The text form of a plan, written. Its grammar is in docs/plan-format.md;
 * parse.c reads it. */
#include <inttypes.h>

#include "base/text.h"
#include "graph/graph.h"
#include "tessera/plan.h"

static void print_type(tsr_text *text, const tsr_type *type) {
    tsr_text_append(text, " %s[", tsr_dtype_name(type->dtype));
    for (int i = 0; i < type->dims; i++)
        tsr_text_append(text, i ? ", %" PRId64 : "%" PRId64, type->shape[i]);
    tsr_text_append(text, "]");
}

static void print_value(tsr_text *text, const tsr_graph *graph,
                        tsr_value_id id) {
    const tsr_value *value = tsr_graph_value(graph, id);
    tsr_text_append(text, "%%%d", id.index);
    if (value->name[0])
        tsr_text_append(text, " \"%s\"", value->name);
    print_type(text, &value->type);
    if (value->role != TSR_ROLE_ACTIVATION)
        tsr_text_append(text, " %s", tsr_role_name(value->role));
    if (value->place == TSR_PLACE_HOST)
        tsr_text_append(text, " host");
    if (value->param.index >= 0)
        tsr_text_append(text, " p%d", value->param.index);
    if (value->space != TSR_SPACE_NONE)
        tsr_text_append(text, " @%s+%zu", tsr_space_name(value->space),
                        value->offset);
}

/* 17 significant digits give a double back exactly. ".0" keeps a whole one
 * real, and the sign of -0. */
static void print_real(tsr_text *text, double value) {
    size_t start = text->count;
    tsr_text_append(text, "%.17g", value);
    if (text->status == TSR_OK && !strpbrk(text->data + start, ".eni"))
        tsr_text_append(text, ".0");
}

static void print_param(tsr_text *text, const tsr_param *param) {
    tsr_text_append(text, "param \"%s\"", param->name);
    print_type(text, &param->type);
    if (tsr_has_master(param))
        tsr_text_append(text, " stored=%s", tsr_dtype_name(param->stored));
    tsr_text_append(text, " group=%d granule=%" PRId64 " %s(", param->group,
                    param->granule,
                    param->init == TSR_INIT_NORMAL ? "normal" : "constant");
    print_real(text, param->init_value);
    tsr_text_append(text, param->decay ? ") decay\n" : ")\n");
}

static void print_attrs(tsr_text *text, const tsr_graph *graph,
                        const tsr_node *node) {
    for (int32_t i = 0; i < node->attrs.count; i++) {
        const tsr_attr *attr = &tsr_graph_attrs(graph, node)[i];
        tsr_text_append(text, "%s%s=", i ? ", " : " {", attr->name);
        if (attr->is_real)
            print_real(text, attr->real);
        else
            tsr_text_append(text, "%" PRId64, attr->integer);
    }
    if (node->attrs.count)
        tsr_text_append(text, "}");
}

static void print_node(tsr_text *text, const tsr_graph *graph, tsr_node_id id) {
    const tsr_node *node = tsr_graph_node_at(graph, id);
    tsr_text_append(text, "n%d:", id.index);
    for (int32_t i = 0; i < node->outputs.count; i++) {
        tsr_text_append(text, i ? ", " : " ");
        print_value(text, graph, tsr_graph_outputs(graph, node)[i]);
    }
    tsr_text_append(text, node->outputs.count ? " = %s(" : " %s(",
                    tsr_graph_op(graph, node)->name);
    for (int32_t i = 0; i < node->inputs.count; i++)
        tsr_text_append(text, i ? ", %%%d" : "%%%d",
                        tsr_graph_inputs(graph, node)[i].index);
    tsr_text_append(text, ")");
    print_attrs(text, graph, node);
    if (node->phase == TSR_BACKWARD)
        tsr_text_append(text, " backward");
    if (node->stream != TSR_ON_COMPUTE)
        tsr_text_append(text, " on=%s", tsr_stream_class_name(node->stream));
    if (node->layer[0])
        tsr_text_append(text, " layer=\"%s\"", node->layer);
    for (int32_t i = 0; i < node->after.count; i++)
        tsr_text_append(text, i ? ",n%d" : " after=n%d",
                        tsr_graph_after(graph, node)[i].index);
    if (node->workspace_bytes)
        tsr_text_append(text, " workspace=%zu@%zu", node->workspace_bytes,
                        node->workspace_offset);
    tsr_text_append(text, "\n");
}

tsr_status tsr_plan_print(const tsr_plan *plan, char **out_text) {
    const tsr_graph *graph = plan->graph;
    const tsr_target *target = &plan->target;
    tsr_text text = {0};
    *out_text = NULL;
    tsr_text_append(&text, "tessera plan 1\n");
    tsr_text_append(&text,
                    "target world=%d shared=%d gather_alias=%d alignment=%zu "
                    "memory=%zu host_memory=%zu\n",
                    target->world, target->shared, target->gather_alias,
                    target->alignment, target->memory, target->host_memory);
    if (target->products)
        tsr_text_append(&text, "products \"%s\"\n", target->products);
    tsr_text_append(&text, "bytes");
    for (int s = TSR_SPACE_WEIGHTS; s < TSR_SPACE_COUNT; s++)
        tsr_text_append(&text, " %s=%zu", tsr_space_name((tsr_space)s),
                        plan->bytes[s]);
    tsr_text_append(&text, "\n");
    for (size_t i = 0; i < graph->params.count; i++)
        print_param(&text, &graph->params.data[i]);
    for (int32_t i = 0; i < (int32_t)graph->values.count; i++) {
        if (graph->values.data[i].producer.index >= 0)
            continue;
        tsr_text_append(&text, "value ");
        print_value(&text, graph, (tsr_value_id){i});
        tsr_text_append(&text, "\n");
    }
    if (tsr_has_value(graph->loss))
        tsr_text_append(&text, "loss %%%d\n", graph->loss.index);
    for (int32_t n = 0; n < (int32_t)graph->nodes.count; n++) {
        if (n == 0 ||
            graph->nodes.data[n].section != graph->nodes.data[n - 1].section)
            tsr_text_append(&text, "section %s\n",
                            tsr_section_name(graph->nodes.data[n].section));
        print_node(&text, graph, (tsr_node_id){n});
    }
    if (tsr_text_status(&text) != TSR_OK) {
        tsr_status status = text.status;
        tsr_text_release(&text);
        return status;
    }
    *out_text = text.data;
    return TSR_OK;
}

void tsr_plan_text_release(char *text) { tsr_free(text); }
