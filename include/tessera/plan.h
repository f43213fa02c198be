/* The plan: a graph whose node order is the schedule and whose values have
 * their place in memory. The same on every rank; rank and addresses enter when
 * an executor binds it. */
#ifndef TESSERA_PLAN_H
#define TESSERA_PLAN_H

#include "tessera/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* All that passes know of the hardware. */
typedef struct tsr_target {
    int world;   /* ranks */
    bool shared; /* ranks share a host: weights and full gradients lie in memory
                    that all of them map */
    bool gather_alias;  /* a gather gives the shared weights themselves: nothing
                           moves; needs `shared` */
    size_t alignment;   /* bytes; a power of two; 0: 64 */
    size_t memory;      /* budget of one rank in bytes, its share of the shared
                           memory included; 0: none */
    size_t host_memory; /* budget of one rank in the host's memory, for values
                           placed there, in bytes; 0: none */
    int prefetch; /* groups whose gathers run ahead of the one in use, where
                     they copy; 0: 1; negative: none. Not in the text form,
                     which holds what came of it */
    /* Bytes of workspace of a node's kernel; NULL: none needs any. */
    size_t (*workspace)(const void *context, const tsr_op_view *view);
    const void *workspace_context; /* borrowed; outlives the plan */
    const char *products; /* how matrices are multiplied, which must be equal on
                             all ranks like the rest of the plan; copied; NULL:
                             not said */
} tsr_target;

typedef struct tsr_plan {
    tsr_graph *graph; /* owned */
    tsr_target target;
    size_t bytes[TSR_SPACE_COUNT]; /* WEIGHTS: of the host (shared) or of the
                                      rank; all others: of one rank */
    size_t live_bytes; /* bound of TRANSIENT + GRADS: the most that is alive at
                          once in each, gradients counted until the next reduce
                          is issued (double buffer); not in the text form */
} tsr_plan;

/* A plan around `graph` (transferred, also on failure), not laid out yet. */
TSR_API tsr_status tsr_plan_create(tsr_graph *graph, const tsr_target *target,
                                   tsr_plan **out_plan);
TSR_API void tsr_plan_release(tsr_plan *plan); /* takes NULL */

/* Elements of a parameter's shard: ceil(numel / (world * granule)) * granule.
 */
TSR_API int64_t tsr_shard_count(const tsr_param *param, int world);

/* Bytes of the device that one rank needs: its private spaces and its share of
 * the others. */
TSR_API size_t tsr_plan_rank_bytes(const tsr_plan *plan);
/* Bytes of the host's memory that one rank needs for values placed there. */
TSR_API size_t tsr_plan_rank_host_bytes(const tsr_plan *plan);
/* Bytes that the host needs for all its ranks when their device is its
 * processors: both of the above. */
TSR_API size_t tsr_plan_host_bytes(const tsr_plan *plan);

/* The text form (docs/plan-format.md), terminated; *out_text is owned by the
 * caller and released with tsr_plan_text_release. Parsing it gives the same
 * plan. */
TSR_API tsr_status tsr_plan_print(const tsr_plan *plan, char **out_text);
TSR_API void tsr_plan_text_release(char *text); /* takes NULL */

/* Parses `length` bytes. The result is well-formed, not verified. Errors:
 * INVALID_DATA with line and column. */
TSR_API tsr_status tsr_plan_parse(const tsr_op_table *ops, const char *text,
                                  size_t length, tsr_plan **out_plan);

/* What a plan promises; each stage includes the ones before. */
typedef enum tsr_stage {
    TSR_STAGE_GRAPH = 0, /* nodes fit their rows; values are made before use */
    TSR_STAGE_SHARDED, /* every gather, wait, release, reduce, fence in place */
    TSR_STAGE_SCHEDULED, /* streams ordered by `after` wherever data needs it */
    TSR_STAGE_PLACED, /* bytes: nothing overlaps, nothing is reused too early */
} tsr_stage;

/* The stage that the plan's fields claim, unchecked: PLACED when every value
 * has a space, SCHEDULED when a node waits for another, SHARDED when there are
 * shards. */
TSR_API tsr_stage tsr_plan_stage(const tsr_plan *plan);

/* Checks the promises of `stage`. Errors: INVALID_DATA naming rule, node and
 * value; OUT_OF_MEMORY when the plan needs more than target.memory or
 * target.host_memory.
 * Cost: about n log n in nodes and values. */
TSR_API tsr_status tsr_plan_verify(const tsr_plan *plan, tsr_stage stage);

/* Hash (XXH3) of everything that must be equal on all ranks. Stable for one
 * version of the library. */
TSR_API tsr_status tsr_plan_hash(const tsr_plan *plan, uint64_t *out_hash);

/* Names used by the text form. */
TSR_API const char *tsr_role_name(tsr_role role);
TSR_API const char *tsr_space_name(tsr_space space);
TSR_API const char *tsr_section_name(tsr_section section);
TSR_API const char *tsr_stream_class_name(tsr_stream_class stream);

#ifdef __cplusplus
}
#endif
#endif
