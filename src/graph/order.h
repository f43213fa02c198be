/* What happens before what, over streams: a vector clock a node.
 *
 * Within a section, nodes of one stream run in order, and a node runs after the
 * ends of the nodes it waits for. Sections are joined: everything of one ends
 * before anything of the next begins. */
#ifndef TSR_GRAPH_ORDER_H
#define TSR_GRAPH_ORDER_H

#include "graph/graph.h"

typedef struct tsr_order {
    const tsr_graph *graph;               /* borrowed */
    int32_t (*clock)[TSR_STREAM_CLASSES]; /* (nodes) latest node of each stream
                                             that ends before; -1: none */
    int32_t last[TSR_STREAM_CLASSES];     /* latest node added of each stream */
    int32_t count;                        /* nodes added */
} tsr_order;

/* Empty, with room for all nodes of `graph`. */
tsr_status tsr_order_create(const tsr_graph *graph, tsr_order *out_order);
void tsr_order_release(tsr_order *order);

/* Adds the next node in schedule order; its `after` counts as it is now. */
void tsr_order_push(tsr_order *order);
/* Takes one more edge into account, just added to the latest pushed node. */
void tsr_order_join(tsr_order *order, tsr_node_id before);

/* Whether the end of `a` happens before the start of `b` (both pushed, a != b).
 */
bool tsr_order_before(const tsr_order *order, tsr_node_id a, tsr_node_id b);

/* The values that a node ends, for k in [0, tsr_ended_count): it frees them, or
 * writes over them. tsr_ended_at may give none. Cost: constant, so that wide
 * nodes (a fence of all shards) stay linear. */
int32_t tsr_ended_count(const tsr_graph *graph, const tsr_node *node);
tsr_value_id tsr_ended_at(const tsr_graph *graph, const tsr_node *node,
                          int32_t k);

#endif
