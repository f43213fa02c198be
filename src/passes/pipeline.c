/* Runs passes in order, checking before that they fit each other and after each
 * that it kept its promise. */
#include <stdio.h>

#include "base/text.h"
#include "graph/graph.h"
#include "passes/prefetch.h"
#include "tessera/passes.h"

static tsr_status check_rows(const tsr_pass *const *passes, size_t pass_count,
                             unsigned have) {
    for (size_t i = 0; i < pass_count; i++) {
        const tsr_pass *pass = passes[i];
        if (pass->requires_ & ~have)
            return tsr_error(TSR_FAILED_PRECONDITION,
                             "pass %zu (%s) needs what no earlier pass gives",
                             i, pass->name);
        if (pass->conflicts & have)
            return tsr_error(
                TSR_FAILED_PRECONDITION,
                "pass %zu (%s) comes too late: an earlier pass rules it out", i,
                pass->name);
        have |= pass->provides;
    }
    return TSR_OK;
}

/* `have`: what holds of the plan as it comes. */
static tsr_status run_passes(tsr_plan *plan, const tsr_pass *const *passes,
                             size_t pass_count, const tsr_training *training,
                             unsigned have) {
    TSR_TRY(tsr_graph_status(plan->graph));
    TSR_TRY(check_rows(passes, pass_count, have));
    for (size_t i = 0; i < pass_count; i++) {
        tsr_status status = passes[i]->run(plan, training);
        if (status != TSR_OK)
            return tsr_error_at(status, "pass %s", passes[i]->name);
        have |= passes[i]->provides;
        tsr_stage stage = have & TSR_HAS_LAYOUT     ? TSR_STAGE_PLACED
                          : have & TSR_HAS_SCHEDULE ? TSR_STAGE_SCHEDULED
                          : have & TSR_HAS_SHARDS   ? TSR_STAGE_SHARDED
                                                    : TSR_STAGE_GRAPH;
        status = tsr_plan_verify(plan, stage);
        if (status != TSR_OK)
            return status == TSR_OUT_OF_MEMORY
                       ? status
                       : tsr_error_at(status, "after pass %s", passes[i]->name);
    }
    return TSR_OK;
}

tsr_status tsr_pipeline_run(tsr_plan *plan, const tsr_pass *const *passes,
                            size_t pass_count, const tsr_training *training) {
    return run_passes(plan, passes, pass_count, training, 0);
}

static tsr_status differentiate(tsr_plan *plan, const tsr_training *training) {
    (void)training;
    return tsr_graph_differentiate(plan->graph);
}

const tsr_pass *tsr_pass_differentiate(void) {
    static const tsr_pass pass = {.name = "differentiate",
                                  .provides = TSR_HAS_BACKWARD,
                                  .conflicts =
                                      TSR_HAS_BACKWARD | TSR_HAS_SHARDS,
                                  .run = differentiate};
    return &pass;
}

/* Layouts beyond the first for a plan whose packing wastes. The first has the
 * excess taken off, so that a second or third seldom comes. */
#define PREFETCH_TRIES 4

/* Only layout gives spaces a size. */
static bool over_budget(const tsr_plan *plan) {
    return plan->target.memory > 0 &&
           tsr_plan_rank_bytes(plan) > plan->target.memory;
}

static tsr_status place_again(tsr_plan *plan, int depth, size_t memory) {
    TSR_TRY(tsr_prefetch(plan, 0, 0));
    if (depth > 0)
        TSR_TRY(tsr_prefetch(plan, depth, memory));
    return tsr_pass_layout()->run(plan, NULL);
}

/* Packed, a plan that gathers ahead needs more than the budget, although its
 * live bytes do not: they get less room, and in the end gathers stay at their
 * waits. */
static tsr_status prefetch_less(tsr_plan *plan) {
    size_t budget = plan->target.memory, memory = budget;
    for (int i = 0; i < PREFETCH_TRIES && over_budget(plan); i++) {
        size_t excess = tsr_plan_rank_bytes(plan) - budget;
        memory -= excess < memory ? excess : memory - 1;
        TSR_TRY(place_again(plan, plan->target.prefetch, memory));
    }
    if (over_budget(plan))
        TSR_TRY(place_again(plan, 0, 0));
    return tsr_plan_verify(plan, TSR_STAGE_PLACED);
}

static tsr_status run_within_budget(tsr_plan *plan,
                                    const tsr_pass *const *passes,
                                    size_t pass_count,
                                    const tsr_training *training,
                                    unsigned have) {
    tsr_status status = run_passes(plan, passes, pass_count, training, have);
    bool moves = !(have & TSR_HAS_SCHEDULE) && tsr_prefetches(&plan->target);
    return status == TSR_OUT_OF_MEMORY && moves && over_budget(plan)
               ? prefetch_less(plan)
               : status;
}

tsr_status tsr_plan_complete(tsr_plan *plan) {
    const tsr_pass *passes[3];
    size_t count = 0;
    tsr_stage stage = tsr_plan_stage(plan);
    unsigned have = TSR_HAS_SHARDS;
    if (stage == TSR_STAGE_GRAPH)
        return tsr_error(TSR_FAILED_PRECONDITION,
                         "the plan has no shards: it is a model's graph, not "
                         "yet a plan");
    TSR_TRY(tsr_plan_verify(plan, stage));
    if (stage == TSR_STAGE_SHARDED) {
        passes[count++] = tsr_pass_schedule();
        passes[count++] = tsr_pass_prefetch();
    } else {
        have |= TSR_HAS_SCHEDULE;
    }
    if (stage != TSR_STAGE_PLACED)
        passes[count++] = tsr_pass_layout();
    return run_within_budget(plan, passes, count, NULL, have);
}

static tsr_status compile(tsr_graph *graph, const tsr_target *target,
                          const tsr_pass *const *passes, size_t pass_count,
                          const tsr_training *training, tsr_plan **out_plan) {
    tsr_plan *plan;
    *out_plan = NULL;
    TSR_TRY(tsr_plan_create(graph, target, &plan));
    tsr_status status =
        run_within_budget(plan, passes, pass_count, training, 0);
    if (status != TSR_OK)
        tsr_plan_release(plan);
    else
        *out_plan = plan;
    return status;
}

tsr_status tsr_compile_training(tsr_graph *graph, const tsr_target *target,
                                const tsr_training *training,
                                tsr_plan **out_plan) {
    return tsr_compile_training_until(graph, target, training, TSR_STAGE_PLACED,
                                      out_plan);
}

tsr_status tsr_compile_training_until(tsr_graph *graph,
                                      const tsr_target *target,
                                      const tsr_training *training,
                                      tsr_stage stage, tsr_plan **out_plan) {
    const tsr_pass *passes[] = {tsr_pass_differentiate(), tsr_pass_shard(),
                                tsr_pass_update(),        tsr_pass_repeat(),
                                tsr_pass_schedule(),      tsr_pass_prefetch(),
                                tsr_pass_layout()};
    size_t left_out = stage >= TSR_STAGE_PLACED      ? 0
                      : stage == TSR_STAGE_SCHEDULED ? 1
                                                     : 3;
    return compile(graph, target, passes,
                   sizeof passes / sizeof *passes - left_out, training,
                   out_plan);
}

tsr_status tsr_compile_forward(tsr_graph *graph, const tsr_target *target,
                               tsr_plan **out_plan) {
    const tsr_pass *passes[] = {tsr_pass_shard(), tsr_pass_schedule(),
                                tsr_pass_prefetch(), tsr_pass_layout()};
    return compile(graph, target, passes, sizeof passes / sizeof *passes, NULL,
                   out_plan);
}
