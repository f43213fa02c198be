/* What must wait waits: with random delays before everything that streams do,
 * in an order and at a speed of its own on every rank, each run has the bits of
 * the one without delays. Reference kernels only, so that ThreadSanitizer sees
 * all accesses. */
#include "runs.h"

/* The longest delay of a task. A task of this model takes some 10 us. */
#define DELAY_US 300

static const uint64_t seeds[] = {11, 12, 13};

static const tsr_gpt_config narrow = {
    .layers = 2, .heads = 1, .dim = 6, .vocab = 11, .seq = 5, .norm_eps = 1e-5};
static const tsr_gpt_config wide = {.layers = 2,
                                    .heads = 2,
                                    .dim = 16,
                                    .vocab = 29,
                                    .seq = 7,
                                    .norm_eps = 1e-5};

static void check_delays(tsr_run run) {
    run.batch = 2;
    run.kernels = TSR_KERNELS_REF;
    outcome *calm = train(&run);
    run.max_delay_us = DELAY_US;
    for (size_t i = 0; i < sizeof seeds / sizeof *seeds; i++) {
        char what[96];
        run.delay_seed = seeds[i];
        snprintf(what, sizeof what,
                 "%d ranks, dim %d, %s, %d micro-steps, seed %d", run.world,
                 (int)run.model.dim, run_memory_names[run.memory],
                 run.micro_steps, (int)seeds[i]);
        outcome *delayed = train(&run);
        check_same_bits(calm, delayed, 0, what);
        outcome_release(delayed);
    }
    outcome_release(calm);
}

int main(void) {
    alarm(2 * RANKS_ALARM); /* threads that wait for each other do not end */
    for (int memory = 0; memory < RUN_MEMORIES; memory++) {
        for (int world = 1; world <= 3; world++)
            check_delays((tsr_run){.model = narrow,
                                   .world = world,
                                   .micro_steps = world == 2 ? 3 : 1,
                                   .steps = 6,
                                   .memory = (run_memory)memory});
        check_delays((tsr_run){.model = wide,
                               .world = 5,
                               .micro_steps = 2,
                               .steps = 4,
                               .memory = (run_memory)memory});
    }
    return 0;
}
