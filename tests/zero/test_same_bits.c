/* Same seed, same world, same plan: same bits. Whether ranks are threads or
 * processes, and how they come by each other's weights, does not show in them.
 */
#include "runs.h"

/* W = 2: full shards. W = 3: 10 * 10 and 10 elements leave padding. */
static tsr_run make_run(int world) {
    return (tsr_run){.model = {.layers = 2,
                               .heads = 2,
                               .dim = 10,
                               .vocab = 23,
                               .seq = 9,
                               .norm_eps = 1e-5},
                     .world = world,
                     .batch = 3,
                     .micro_steps = 2,
                     .steps = 6,
                     .kernels = TSR_KERNELS_CPU};
}

/* A second run of the same; `what` for messages. */
static void check_repeats(const tsr_run *run, const char *what) {
    outcome *first = train(run), *second = train(run);
    check_same_bits(first, second, 0, what);
    outcome_release(second);
    outcome_release(first);
}

/* Threads and processes, in every way to come by weights; against threads in
 * the first. */
static void check_forms(tsr_run run) {
    outcome *first = train(&run);
    for (int processes = 0; processes < 2; processes++)
        for (int memory = 0; memory < RUN_MEMORIES; memory++) {
            char what[96];
            run.processes = processes;
            run.memory = (run_memory)memory;
            snprintf(
                what, sizeof what,
                "%d ranks, dim %d, %s: %s, %s; against threads, alias",
                run.world, (int)run.model.dim, tsr_dtype_name(run.model.dtype),
                processes ? "processes" : "threads", run_memory_names[memory]);
            outcome *other = train(&run);
            check_same_bits(first, other, 0, what);
            outcome_release(other);
        }
    outcome_release(first);
}

/* No size is a multiple of another, of a vector, or of the world. */
static tsr_run make_odd_run(int world) {
    tsr_run run = make_run(world);
    run.model = (tsr_gpt_config){.layers = 1,
                                 .heads = 5,
                                 .dim = 35,
                                 .vocab = 101,
                                 .seq = 37,
                                 .norm_eps = 1e-5};
    run.steps = 3;
    return run;
}

/* Evaluating on the way leaves no trace. */
static void check_evaluation(int world, run_memory memory, tsr_dtype dtype) {
    tsr_run run = make_run(world);
    run.model.dtype = dtype;
    run.memory = memory;
    outcome *plain = train(&run);
    run.evaluate = true;
    outcome *evaluated = train(&run);
    check_same_bits(plain, evaluated, 0, "evaluated between steps");
    for (int s = 0; s < run.steps; s++)
        CHECK(evaluated->eval_losses[0][s] > 0);
    outcome_release(evaluated);
    outcome_release(plain);
}

/* The comparison sees the last bit: another split of the same batch has the
 * same losses within rounding, not the same bits. */
static void check_splits_differ(void) {
    tsr_run run = make_run(2);
    outcome *a = train(&run);
    run.batch = 2;
    run.micro_steps = 3;
    outcome *b = train(&run);
    CHECK(memcmp(a->state, b->state, RUN_KINDS * a->elements * sizeof(float)) !=
          0);
    outcome_release(b);
    outcome_release(a);
}

/* bf16, multiplied in f32 or as it is. */
static void check_bf16(tsr_bf16_choice choice) {
    tsr_cpu_bf16_prefer(choice);
    for (int world = 1; world <= 5; world += world == 3 ? 2 : 1) {
        tsr_run run = world == 3 ? make_odd_run(world) : make_run(world);
        run.model.dtype = TSR_BF16;
        check_forms(run);
    }
    tsr_run run = make_odd_run(2);
    run.model.dtype = TSR_BF16;
    run.threads = 2;
    check_repeats(&run, "bf16, 2 ranks of 2 threads");
    check_evaluation(2, RUN_ALIAS, TSR_BF16);
    tsr_cpu_bf16_prefer(TSR_BF16_PROBE);
}

int main(void) {
    for (int world = 1; world <= 3; world++)
        check_forms(make_run(world));
    check_forms(make_run(5));
    check_forms(make_odd_run(3));
    check_forms(make_odd_run(5));
    tsr_run run = make_run(2);
    run.threads = 2;
    check_repeats(&run, "2 ranks of 2 threads");
    run.world = 5;
    run.threads = 1;
    run.memory = RUN_COPY;
    check_repeats(&run, "5 ranks, copy");
    for (int memory = 0; memory < RUN_MEMORIES; memory++)
        check_evaluation(2, (run_memory)memory, TSR_F32);
    check_splits_differ();
    check_bf16(TSR_BF16_F32);
    if (tsr_matmul_possible())
        check_bf16(TSR_BF16_NATIVE);
    return 0;
}
