/* Building the new node order of a pass, old nodes and new ones mixed. */
#ifndef TSR_PASSES_REWRITE_H
#define TSR_PASSES_REWRITE_H

#include "graph/graph.h"

typedef struct tsr_rewrite {
    tsr_graph *graph;
    TSR_ARRAY(tsr_node) order;
} tsr_rewrite;

/* Takes over a node as it is. */
static inline tsr_status tsr_rewrite_keep(tsr_rewrite *rewrite,
                                          const tsr_node *node) {
    TSR_TRY(TSR_ARRAY_RESERVE(&rewrite->order, 1));
    TSR_ARRAY_PUSH(&rewrite->order, *node);
    return TSR_OK;
}

/* Makes a new node (in the graph's current section, phase and layer) next in
 * the order. The desc's arrays must not lie in the graph, whose lists may move.
 */
static inline tsr_status tsr_rewrite_add(tsr_rewrite *rewrite,
                                         const tsr_node_desc *desc,
                                         tsr_node *out_node) {
    tsr_node_id id;
    TSR_TRY(tsr_graph_append(rewrite->graph, desc, &id));
    *out_node = rewrite->graph->nodes.data[id.index];
    rewrite->graph->nodes.count--; /* it lives in the new order only */
    return tsr_rewrite_keep(rewrite, out_node);
}

/* Makes the new order the graph's. */
static inline tsr_status tsr_rewrite_finish(tsr_rewrite *rewrite) {
    return tsr_graph_set_nodes(rewrite->graph, rewrite->order.data,
                               rewrite->order.count);
}

static inline void tsr_rewrite_release(tsr_rewrite *rewrite) {
    TSR_ARRAY_FREE(&rewrite->order);
}

/* The declared value of `role` that belongs to `param`, or none. */
tsr_value_id tsr_find_role(const tsr_graph *graph, tsr_role role,
                           tsr_param_id param);

/* Declares a flat value that belongs to `param`, called PARAM + suffix; it is
 * as the parameter is used (param_shard) or stored (all others). */
tsr_status tsr_declare_for(tsr_graph *graph, tsr_param_id param,
                           const char *suffix, tsr_role role, int64_t count,
                           tsr_value_id *out_value);

/* Drops values that no node and no declaration needs any more and numbers the
 * rest in the order of the text form. */
tsr_status tsr_compact(tsr_graph *graph);

#endif
