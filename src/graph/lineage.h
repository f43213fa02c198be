/* Where values come from: whose memory they lie in, and whose contents they
 * carry once copies between device and host are followed. */
#ifndef TSR_GRAPH_LINEAGE_H
#define TSR_GRAPH_LINEAGE_H

#include "graph/graph.h"

typedef struct tsr_lineage {
    int32_t storage; /* the declared value in whose memory it lies; -1: in
                        memory of its section */
    int32_t origin;  /* the declared value that it is, or that it came from by
                        copies and writes in place; -1: none */
} tsr_lineage;

/* Of every value: (values), freed by the caller with tsr_free. Nodes must be in
 * order for it to mean anything, not for it to be safe. */
tsr_status tsr_lineages(const tsr_graph *graph, tsr_lineage **out_lineages);

/* The value that `value` is a copy of, past any offload and reload. */
tsr_value_id tsr_source_of(const tsr_graph *graph, tsr_value_id value);

#endif
