/* Passes: from a model's graph to a plan. */
#ifndef TESSERA_PASSES_H
#define TESSERA_PASSES_H

#include "tessera/plan.h"

#ifdef __cplusplus
extern "C" {
#endif

/* AdamW (Loshchilov and Hutter 2019) and clipping by the global norm. */
typedef struct tsr_adamw {
    double beta1, beta2, eps;
    double weight_decay; /* of parameters with `decay` */
    double max_norm;     /* 0: no clipping */
} tsr_adamw;

typedef struct tsr_training {
    int micro_steps; /* forward and backward this often a step */
    tsr_adamw adamw;
} tsr_training;

/* A pass works on a plan in place. Its row says what must hold before, and what
 * holds after; the pipeline checks all rows before it runs the first. */
typedef enum tsr_property {
    TSR_HAS_BACKWARD = 1,
    TSR_HAS_SHARDS = 2,
    TSR_HAS_UPDATE = 4,
    TSR_HAS_MICRO_NEXT = 8,
    TSR_HAS_SCHEDULE = 16,
    TSR_HAS_LAYOUT = 32,
    TSR_HAS_PREFETCH = 64,
} tsr_property;

typedef struct tsr_pass {
    const char *name;
    unsigned requires_; /* OR of tsr_property */
    unsigned provides;
    unsigned conflicts; /* must not hold yet */
    tsr_status (*run)(tsr_plan *plan, const tsr_training *training);
} tsr_pass;

TSR_API const tsr_pass *tsr_pass_differentiate(void); /* the backward */
TSR_API const tsr_pass *
tsr_pass_shard(void); /* gather, wait, release, reduce; one group a call */
TSR_API const tsr_pass *
tsr_pass_update(void); /* norm, clipping, AdamW, fences */
TSR_API const tsr_pass *tsr_pass_repeat(void); /* the accumulating micro-step */
TSR_API const tsr_pass *
tsr_pass_schedule(void); /* order, waits between streams */
/* Gathers that copy go target.prefetch groups ahead of their use, within
 * target.memory; where they alias, or in a world of one, nothing happens. */
TSR_API const tsr_pass *tsr_pass_prefetch(void);
TSR_API const tsr_pass *tsr_pass_layout(void); /* bytes */

/* Runs `passes` in order, verifying after each. `training` may be NULL for
 * plans without an update. Errors: FAILED_PRECONDITION (rows that do not fit
 * each other, named; nothing has run); those of passes and verify, with the
 * pass's name. */
TSR_API tsr_status tsr_pipeline_run(tsr_plan *plan,
                                    const tsr_pass *const *passes,
                                    size_t pass_count,
                                    const tsr_training *training);

/* The whole way from a forward graph with a loss (transferred, also on failure)
 * to a verified training plan with sections micro_first, micro_next (when
 * micro_steps > 1) and update. A parameter NAME becomes its shard, also called
 * NAME. Adds the inputs and states:
 *
 *   "schedule"         f32 [2]: learning rate, and step counted from 1; written
 *                      by the host before the update
 *   "grad_norm"        f32 [1]: of the latest update, before clipping
 *   "NAME.grad"        f32 [shard]: the reduced gradient
 *   "NAME.exp_avg"     f32 [shard], and "NAME.exp_avg_sq": AdamW's moments
 *
 * Gathers that copy run ahead of their use (target->prefetch) where the budget
 * has room for that.
 *
 * Errors: OUT_OF_MEMORY (target->memory is too small; says what is needed);
 * INVALID_ARGUMENT, UNSUPPORTED (the graph cannot be differentiated). */
TSR_API tsr_status tsr_compile_training(tsr_graph *graph,
                                        const tsr_target *target,
                                        const tsr_training *training,
                                        tsr_plan **out_plan);

/* The first part of it: `stage` is TSR_STAGE_SHARDED (nothing is ordered or
 * placed yet: the text to edit by hand), TSR_STAGE_SCHEDULED or
 * TSR_STAGE_PLACED. */
TSR_API tsr_status tsr_compile_training_until(tsr_graph *graph,
                                              const tsr_target *target,
                                              const tsr_training *training,
                                              tsr_stage stage,
                                              tsr_plan **out_plan);

/* The rest of it, for a plan that was parsed: order and waits unless a node
 * waits already, bytes unless every value has a place (a value without one and
 * all are placed anew). What the text says is kept, and verified. Errors:
 * those of tsr_plan_verify; FAILED_PRECONDITION (no shards). */
TSR_API tsr_status tsr_plan_complete(tsr_plan *plan);

/* Likewise for a graph without backward and update: evaluation, decoding. One
 * section, micro_first. */
TSR_API tsr_status tsr_compile_forward(tsr_graph *graph,
                                       const tsr_target *target,
                                       tsr_plan **out_plan);

#ifdef __cplusplus
}
#endif
#endif
