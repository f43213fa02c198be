/* Values that share memory, and for how long. */
#ifndef TSR_PASSES_STORAGE_H
#define TSR_PASSES_STORAGE_H

#include "graph/order.h"
#include "tessera/plan.h"

/* Values that share memory form one storage: what an op must write in place,
 * what it may and can. */
typedef struct tsr_storage {
    tsr_space space;
    bool fixed; /* declared, or a gather that aliases the weights: placed
                   outside the transient spaces */
    int32_t first, last;
    int32_t touched[TSR_STREAM_CLASSES]; /* latest node of each stream that
                                            reads or writes it; -1 */
    int32_t pending; /* reads of its values by nodes not yet passed */
    size_t bytes, offset;
} tsr_storage;

/* All of a scheduled plan; zero-initialise. */
typedef struct tsr_storages {
    tsr_plan *plan;             /* borrowed */
    tsr_graph *graph;           /* the plan's */
    size_t *param_offset;       /* (params) in WEIGHTS */
    int32_t *storage_of;        /* (values) */
    int32_t *reads;             /* (values) how often nodes read it */
    TSR_ARRAY(tsr_storage) all; /* in the order of their first nodes */
} tsr_storages;

/* Gives weights and declared values their places, finds the workspaces of
 * kernels and all storages. Writes places, spaces' sizes and workspaces into
 * the plan; release what `self` then holds also on failure. */
tsr_status tsr_storages_find(tsr_plan *plan, tsr_storages *self);
void tsr_storages_release(tsr_storages *self);

/* The node up to which a storage stays: the last that touches it; when that one
 * runs on another stream than compute, a little longer: to the next node of
 * that stream, so that compute need not wait for it at once (the double buffer
 * of gradients on the wire). */
int32_t tsr_storage_kept_until(const tsr_storages *self, const tsr_storage *at,
                               int32_t section_end);

/* Whole shards, padding included, for a copy that is gathered; aligned. */
size_t tsr_storage_bytes(const tsr_plan *plan, const tsr_value *value);

/* alive[n] = bytes of a transient `space` that storages and workspaces
 * hold at node n.
 * alive  (nodes + 1) written; the last is scratch */
void tsr_storages_alive(const tsr_storages *self, tsr_space space,
                        size_t *alive);

/* One past the last node of the section that node `first` is in. */
int32_t tsr_section_end(const tsr_graph *graph, int32_t first);

#endif
