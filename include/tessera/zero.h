/* Running a plan: an arena that gives its values addresses, and an executor
 * that walks it. */
#ifndef TESSERA_ZERO_H
#define TESSERA_ZERO_H

#include "tessera/comm.h"
#include "tessera/ops.h"
#include "tessera/plan.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- arena: the memory of one rank ----
 *
 * Plans that share an arena (train, evaluate, decode) share the weights and the
 * transient spaces, which are as large as the largest of them; each has its own
 * persistent spaces. Shards that are kept on the host are a plan's own. */
typedef struct tsr_arena tsr_arena; /* immutable after create */

/* The plans are borrowed and outlive the arena; all have one target and the
 * same parameters. Everything is zeroed. `comm` is borrowed and outlives the
 * arena; it gives the shared memory when the target is shared, else it may be
 * NULL. Collective when shared. Errors: INVALID_ARGUMENT (plans that do not fit
 * each other or the comm), OUT_OF_MEMORY. */
TSR_API tsr_status tsr_arena_create(tsr_device *device, tsr_comm *comm,
                                    const tsr_plan *const *plans,
                                    size_t plan_count, tsr_arena **out_arena);
TSR_API void tsr_arena_release(tsr_arena *arena); /* takes NULL */

/* Where a value of plan `plan` lies for this rank. */
TSR_API void *tsr_arena_address(const tsr_arena *arena, size_t plan,
                                tsr_value_id value);

/* Start and size of a space of plan `plan` (plan matters for the persistent
 * ones only). Full gradients: this rank's part. On the host NULL where no plan
 * has values there. */
TSR_API void *tsr_arena_space(const tsr_arena *arena, size_t plan,
                              tsr_space space, size_t *out_bytes);

/* Bytes of this rank on the device: its private spaces, and its share of the
 * shared ones; and on the host, for values placed there. */
TSR_API size_t tsr_arena_bytes(const tsr_arena *arena);
TSR_API size_t tsr_arena_host_bytes(const tsr_arena *arena);

/* ---- executor ---- */

typedef struct tsr_executor tsr_executor; /* one thread at a time */

/* All borrowed; they outlive the executor. Gathers and reduces have a
 * communicator each, over the same ranks, since neither may wait behind the
 * other; both may be NULL for a plan of one rank without collectives. */
typedef struct tsr_executor_options {
    const tsr_arena *arena;
    size_t plan; /* of the arena */
    const tsr_kernel_table *kernels;
    tsr_device *device;
    tsr_comm *gather_comm;
    tsr_comm *reduce_comm;
    int timeline; /* walks of each section whose times are kept; 0: none */
} tsr_executor_options;

/* Prepares every call of the plan once. Errors: NOT_FOUND (an op without a
 * kernel), INVALID_ARGUMENT (world or rank do not fit), OUT_OF_MEMORY. */
TSR_API tsr_status tsr_executor_create(const tsr_executor_options *options,
                                       tsr_executor **out_executor);
/* Waits for queued work. Takes NULL. */
TSR_API void tsr_executor_release(tsr_executor *executor);

/* Enqueues one section; returns before completion; allocates nothing. A section
 * without nodes is a no-op. Values that the host writes (inputs) must be in
 * place, and must not change before tsr_executor_synchronize or the end of the
 * section. Once the group has failed, its failure is returned and nothing is
 * enqueued: peers may be anywhere in their own steps. */
TSR_API tsr_status tsr_executor_walk(tsr_executor *executor,
                                     tsr_section section);

/* Enqueues a task between walks: on the compute stream, after everything walked
 * before, before everything walked later. `context` is borrowed until it has
 * run. */
TSR_API tsr_status tsr_executor_enqueue(tsr_executor *executor, tsr_task task,
                                        void *context);

/* Waits for everything enqueued. The first failure of a node (named), kernel or
 * peer is returned. A kernel's failure makes its rank's group fail at once, so
 * that no peer waits for it or uses what it would have sent. */
TSR_API tsr_status tsr_executor_synchronize(tsr_executor *executor);

/* When a node ran, in nanoseconds of the host's monotonic clock. Of a wait: how
 * long compute stood still for it. */
typedef struct tsr_node_time {
    int64_t begin_ns, end_ns;
} tsr_node_time;

/* The time of `node` in the latest walk of its section (back = 0) or one of
 * those before it, options.timeline of them. Recorded by the workers into
 * memory made with the executor; walking allocates nothing. Only after
 * tsr_executor_synchronize. False: nothing was recorded, since there was no
 * such walk, the node had nothing to do, or an earlier failure dropped it. */
TSR_API bool tsr_executor_node_time(const tsr_executor *executor,
                                    tsr_node_id node, int back,
                                    tsr_node_time *out_time);

/* Refuses to start when ranks hold different plans: compares hashes, then
 * lines, and names the first that differs. Collective, blocking. Errors:
 * FAILED_PRECONDITION, UNAVAILABLE. */
TSR_API tsr_status tsr_plan_agree(const tsr_plan *plan,
                                  tsr_bootstrap *bootstrap, int timeout_ms);

#ifdef __cplusplus
}
#endif
#endif
