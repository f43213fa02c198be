/* Inside of a graph; what passes may do to one. */
#ifndef TSR_GRAPH_GRAPH_H
#define TSR_GRAPH_GRAPH_H

#include <string.h>

#include "base/array.h"
#include "tessera/graph.h"

#define TSR_NO_VALUE ((tsr_value_id){-1})
#define TSR_NO_NODE ((tsr_node_id){-1})
#define TSR_NO_PARAM ((tsr_param_id){-1})

/* Nodes refer to their operands by spans of shared lists, so that nodes can be
 * moved and copied as plain structs. */
struct tsr_graph {
    const tsr_op_table *ops; /* borrowed */
    TSR_ARRAY(tsr_value) values;
    TSR_ARRAY(tsr_node) nodes;
    TSR_ARRAY(tsr_param) params;
    TSR_ARRAY(tsr_value_id) operands; /* of inputs and outputs */
    TSR_ARRAY(tsr_attr) attrs;
    TSR_ARRAY(tsr_node_id) afters;
    TSR_ARRAY(char *)
    strings; /* owned; every name in the graph points to one */
    TSR_ARRAY(tsr_type) types; /* scratch of inference */
    tsr_value_id loss;
    const char *layer;    /* of the next node */
    tsr_phase phase;      /* of the next node */
    tsr_section section;  /* of the next node */
    tsr_status status;    /* the first failure of a builder call */
    char *status_message; /* owned */
};

/* Keeps `status` (with the current message) as the graph's failure unless it
 * already has one. Returns the sticking status. */
tsr_status tsr_graph_fail(tsr_graph *graph, tsr_status status);

/* A copy of `text` owned by the graph; equal texts share one. NULL on failure
 * (which sticks). */
const char *tsr_graph_intern(tsr_graph *graph, const char *text, size_t length);

/* INVALID_ARGUMENT when a parameter cannot be stored as it says. */
tsr_status tsr_check_stored(const tsr_param *param);

/* Whether the shard that is stored is a master apart from what is gathered. */
static inline bool tsr_has_master(const tsr_param *param) {
    return param->stored != param->type.dtype;
}

/* Adds a value as it is (its name is interned). */
tsr_value_id tsr_graph_add_value(tsr_graph *graph, const tsr_value *value);

/* A node before it is in a graph. */
typedef struct tsr_node_desc {
    const char *op;
    const tsr_value_id *inputs;
    size_t input_count;
    const tsr_attr *attrs;
    size_t attr_count;
    const tsr_value_id *outputs; /* existing values to write; NULL: new
                                    activations from inference */
    size_t output_count;         /* when outputs are given */
} tsr_node_desc;

/* Checks and appends a node in the graph's current section, phase and layer.
 * The node's id through out_node (may be NULL). */
tsr_status tsr_graph_append(tsr_graph *graph, const tsr_node_desc *desc,
                            tsr_node_id *out_node);

/* Arity, attributes and inferred types of a node that may come from anywhere;
 * outputs must equal what is inferred. */
tsr_status tsr_graph_check_node(tsr_graph *graph, const tsr_node *node);

/* A view of a node; its arrays live in `types`, which the caller
 * zero-initialises and frees with TSR_ARRAY_FREE. */
typedef TSR_ARRAY(tsr_type) tsr_type_array;
tsr_status tsr_graph_view(const tsr_graph *graph, const tsr_node *node,
                          tsr_type_array *types, tsr_op_view *out_view);

/* The input whose memory output `output` always / may take: TSR_NO_VALUE where
 * the op's row names none. */
tsr_value_id tsr_graph_must_alias(const tsr_graph *graph, const tsr_node *node,
                                  int output);
tsr_value_id tsr_graph_may_alias(const tsr_graph *graph, const tsr_node *node,
                                 int output);

/* Makes `order` (node_count nodes, copied) the graph's nodes and renews every
 * value's producer. */
tsr_status tsr_graph_set_nodes(tsr_graph *graph, const tsr_node *order,
                               size_t node_count);

/* Adds `before` to what `node` waits for. */
tsr_status tsr_graph_add_after(tsr_graph *graph, tsr_node *node,
                               tsr_node_id before);

/* "n12 linear (h.3.attn)" in `buffer`; returns buffer. "%7 'tokens'" likewise.
 */
#define TSR_LABEL_BYTES 160
char *tsr_graph_node_label(const tsr_graph *graph, tsr_node_id node,
                           char buffer[TSR_LABEL_BYTES]);
char *tsr_graph_value_label(const tsr_graph *graph, tsr_value_id value,
                            char buffer[TSR_LABEL_BYTES]);

static inline bool tsr_has_value(tsr_value_id id) { return id.index >= 0; }

/* Mutable access for passes. */
static inline tsr_value *tsr_value_of(tsr_graph *graph, tsr_value_id id) {
    return &graph->values.data[id.index];
}
static inline tsr_value_id *tsr_inputs_of(tsr_graph *graph,
                                          const tsr_node *node) {
    return graph->operands.data + node->inputs.first;
}
static inline tsr_value_id *tsr_outputs_of(tsr_graph *graph,
                                           const tsr_node *node) {
    return graph->operands.data + node->outputs.first;
}
/* Offload or reload: its output is a copy of its first input in the other
 * place. */
static inline bool tsr_node_moves(const tsr_graph *graph,
                                  const tsr_node *node) {
    return (tsr_graph_op(graph, node)->flags &
            (TSR_OP_OFFLOADS | TSR_OP_RELOADS)) != 0;
}
static inline bool tsr_node_is(const tsr_graph *graph, const tsr_node *node,
                               const char *op) {
    return strcmp(tsr_graph_op(graph, node)->name, op) == 0;
}

#endif
