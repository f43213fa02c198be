/* Gathers that run ahead of their use. */
#ifndef TSR_PASSES_PREFETCH_H
#define TSR_PASSES_PREFETCH_H

#include "tessera/plan.h"

/* Moves the gathers of a scheduled plan: at most `depth` groups ahead of the
 * one that is in use, as far as target.memory goes; 0: back to their waits.
 * Renews the waits between streams; a layout is void then. */
tsr_status tsr_prefetch(tsr_plan *plan, int depth);

#endif
