/* What must wait waits: with random delays before everything that streams do,
 * in an order and at a speed of its own on every rank, each run has the bits of
 * the one without delays. Reference kernels only, so that ThreadSanitizer sees
 * all accesses. */
#include "runs.h"

/* The longest delay of a task. A task of this model takes some 10 us. */
#define DELAY_US 300

static const uint64_t seeds[] = {11, 12, 13};

static void check_delays(int world, run_memory memory, int micro_steps) {
    tsr_run run = {.model = {.layers = 2,
                             .heads = 1,
                             .dim = 6,
                             .vocab = 11,
                             .seq = 5,
                             .norm_eps = 1e-5},
                   .world = world,
                   .batch = 2,
                   .micro_steps = micro_steps,
                   .steps = 3,
                   .memory = memory,
                   .kernels = TSR_KERNELS_REF};
    outcome *calm = train(&run);
    run.max_delay_us = DELAY_US;
    for (size_t i = 0; i < sizeof seeds / sizeof *seeds; i++) {
        char what[96];
        run.delay_seed = seeds[i];
        snprintf(what, sizeof what, "%d ranks, %s, %d micro-steps, seed %d",
                 world, run_memory_names[memory], micro_steps, (int)seeds[i]);
        outcome *delayed = train(&run);
        check_same_bits(calm, delayed, 0, what);
        outcome_release(delayed);
    }
    outcome_release(calm);
}

int main(void) {
    alarm(2 * RANKS_ALARM); /* threads that wait for each other do not end */
    for (int world = 1; world <= 3; world++)
        for (int memory = 0; memory < RUN_MEMORIES; memory++)
            check_delays(world, (run_memory)memory, world == 2 ? 3 : 1);
    return 0;
}
