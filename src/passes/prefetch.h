/* Gathers that run ahead of their use. */
#ifndef TSR_PASSES_PREFETCH_H
#define TSR_PASSES_PREFETCH_H

#include "tessera/plan.h"

/* Whether gathers are to run ahead of their use: where they copy, in a world
 * of more than one rank, unless the target says no. */
bool tsr_prefetches(const tsr_target *target);

/* Moves the gathers of a scheduled plan. Renews the waits between streams; a
 * layout is void then.
 *
 * depth   groups ahead of the one that is in use, at most; 0: gathers go back
 *         to their waits
 * memory  bytes of one rank that may be alive, counted as layout does before
 *         it packs; 0: any */
tsr_status tsr_prefetch(tsr_plan *plan, int depth, size_t memory);

#endif
