/* Waits between streams. */
#ifndef TSR_PASSES_WAITS_H
#define TSR_PASSES_WAITS_H

#include "graph/graph.h"

/* Gives each node the `after` edges that its data needs, in the order of the
 * nodes as it is now, and drops all that it had: makers of its inputs end
 * before it starts, and so do other readers of what it ends. None that follows
 * from others. */
tsr_status tsr_waits_add(tsr_graph *graph);

#endif
