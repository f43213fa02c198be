/* The stages of verification; each checks its own promises and takes those
 * before for granted. */
#ifndef TSR_GRAPH_VERIFY_H
#define TSR_GRAPH_VERIFY_H

#include "graph/order.h"
#include "tessera/plan.h"

tsr_status tsr_verify_graph(const tsr_plan *plan); /* verify.c */
/* Places of one node's operands, of one value: verify_offload.c. */
tsr_status tsr_verify_places(const tsr_plan *plan, tsr_node_id node);
tsr_status tsr_verify_host_role(const tsr_plan *plan, tsr_value_id value);
tsr_status tsr_verify_sharded(const tsr_plan *plan);   /* verify_sharded.c */
tsr_status tsr_verify_copies(const tsr_plan *plan);    /* verify_offload.c */
tsr_status tsr_verify_update(const tsr_plan *plan);    /* its last part */
tsr_status tsr_verify_scheduled(const tsr_plan *plan); /* verify_scheduled.c */
tsr_status tsr_verify_placed(const tsr_plan *plan);    /* verify_placed.c */
tsr_status tsr_verify_reuse(const tsr_plan *plan);     /* its last part */

/* INVALID_DATA: "rule: node n3 reduce (h.0), value %7: detail". value may be
 * none. */
tsr_status tsr_violation(const tsr_plan *plan, const char *rule,
                         tsr_node_id node, tsr_value_id value,
                         const char *format, ...) TSR_PRINTF(5, 6);

/* Whether a node called `op` makes the value. */
bool tsr_made_by(const tsr_graph *graph, tsr_value_id value, const char *op);

/* Bytes of a value in its space: those of all ranks for a shard in shared
 * weights, whole shards (padding included) for a copy that is gathered. */
size_t tsr_bytes_in_space(const tsr_plan *plan, const tsr_value *value);

/* An order with all nodes pushed. */
tsr_status tsr_order_of(const tsr_graph *graph, tsr_order *out_order);

#endif
