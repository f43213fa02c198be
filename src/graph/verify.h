/* The stages of verification; each checks its own promises and takes those
 * before for granted. */
#ifndef TSR_GRAPH_VERIFY_H
#define TSR_GRAPH_VERIFY_H

#include "graph/order.h"
#include "tessera/plan.h"

tsr_status tsr_verify_graph(const tsr_plan *plan);     /* verify.c */
tsr_status tsr_verify_sharded(const tsr_plan *plan);   /* verify_sharded.c */
tsr_status tsr_verify_scheduled(const tsr_plan *plan); /* verify_scheduled.c */
tsr_status tsr_verify_placed(const tsr_plan *plan);    /* verify_placed.c */

/* INVALID_DATA: "rule: node n3 reduce (h.0), value %7: detail". value may be
 * none. */
tsr_status tsr_violation(const tsr_plan *plan, const char *rule,
                         tsr_node_id node, tsr_value_id value,
                         const char *format, ...) TSR_PRINTF(5, 6);

/* An order with all nodes pushed. */
tsr_status tsr_order_of(const tsr_graph *graph, tsr_order *out_order);

#endif
