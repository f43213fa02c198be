/* Time from a model's graph to its verified plan, and the bytes that layout
 * wastes.
 *
 *   bench_compile [MODEL...]      default: the four GPT-2 models
 *
 * Each pass is run and verified as tsr_compile_training does; times are medians
 * of RUNS whole compilations, in milliseconds. Waste: bytes of transient and
 * grads above the most that is alive at once. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tessera/models.h"
#include "tessera/passes.h"

#define RUNS 5
#define PASSES 6
#define COLUMNS (3 + PASSES) /* total, build, passes, verify */

static const tsr_training training = {.micro_steps = 2,
                                      .adamw = {.beta1 = 0.9,
                                                .beta2 = 0.95,
                                                .eps = 1e-8,
                                                .weight_decay = 0.1,
                                                .max_norm = 1}};

static double now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}

static int by_value(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return a < b ? -1 : a > b;
}

static double median(const double *samples) {
    double sorted[RUNS];
    memcpy(sorted, samples, sizeof sorted);
    qsort(sorted, RUNS, sizeof *sorted, by_value);
    return sorted[RUNS / 2];
}

/* One compilation; adds its times to `out_ms[column][run]`. The plan is the
 * caller's. */
static tsr_status compile(const tsr_op_table *ops, const tsr_gpt_config *config,
                          int run, double out_ms[COLUMNS][RUNS],
                          tsr_plan **out_plan) {
    const tsr_pass *passes[PASSES] = {
        tsr_pass_differentiate(), tsr_pass_shard(),    tsr_pass_update(),
        tsr_pass_repeat(),        tsr_pass_schedule(), tsr_pass_layout()};
    const tsr_stage stages[PASSES] = {TSR_STAGE_GRAPH,     TSR_STAGE_SHARDED,
                                      TSR_STAGE_SHARDED,   TSR_STAGE_SHARDED,
                                      TSR_STAGE_SCHEDULED, TSR_STAGE_PLACED};
    tsr_target target = {.world = 2, .shared = true, .gather_alias = true};
    tsr_graph *graph;
    double start = now_ms(), verify = 0;
    *out_plan = NULL;
    tsr_status status = tsr_graph_create(ops, &graph);
    if (status != TSR_OK)
        return status;
    status = tsr_gpt_build(graph, config, 2, 256, 1.0 / 1024);
    if (status != TSR_OK) {
        tsr_graph_release(graph);
        return status;
    }
    status = tsr_plan_create(graph, &target, out_plan);
    out_ms[1][run] = now_ms() - start;
    for (int p = 0; status == TSR_OK && p < PASSES; p++) {
        double before = now_ms();
        status = passes[p]->run(*out_plan, &training);
        double between = now_ms();
        if (status == TSR_OK)
            status = tsr_plan_verify(*out_plan, stages[p]);
        out_ms[2 + p][run] = between - before;
        verify += now_ms() - between;
    }
    out_ms[COLUMNS - 1][run] = verify;
    out_ms[0][run] = now_ms() - start;
    return status;
}

static tsr_status bench(const tsr_op_table *ops, const char *name) {
    tsr_gpt_config config;
    double ms[COLUMNS][RUNS];
    tsr_plan *plan = NULL;
    tsr_status status = tsr_gpt_preset(name, &config);
    for (int run = 0; status == TSR_OK && run < RUNS; run++) {
        tsr_plan_release(plan);
        status = compile(ops, &config, run, ms, &plan);
    }
    if (status == TSR_OK) {
        size_t bytes =
            plan->bytes[TSR_SPACE_TRANSIENT] + plan->bytes[TSR_SPACE_GRADS];
        printf("%-12s %7d", name, tsr_graph_node_count(plan->graph));
        for (int column = 0; column < COLUMNS; column++)
            printf(" %8.2f", median(ms[column]));
        printf(" %7.3f %%\n", 100.0 * (double)(bytes - plan->live_bytes) /
                                  (double)plan->live_bytes);
    }
    tsr_plan_release(plan);
    return status;
}

int main(int argc, char **argv) {
    static const char *const all[] = {"gpt2", "gpt2-medium", "gpt2-large",
                                      "gpt2-xl"};
    const char *const *names = argc > 1 ? (const char *const *)argv + 1 : all;
    int count = argc > 1 ? argc - 1 : (int)(sizeof all / sizeof *all);
    tsr_op_table *ops;
    tsr_status status = tsr_op_table_create(&ops);
    printf("graph to plan, ms (median of %d); world 2, weights shared, batch "
           "2, 256 tokens, 2 micro-steps\n"
           "%-12s %7s %8s %8s %8s %8s %8s %8s %8s %8s %8s %9s\n",
           RUNS, "model", "nodes", "total", "build", "diff", "shard", "update",
           "repeat", "schedule", "layout", "verify", "waste");
    for (int i = 0; status == TSR_OK && i < count; i++)
        status = bench(ops, names[i]);
    if (status != TSR_OK)
        fprintf(stderr, "bench_compile: %s: %s\n", tsr_status_name(status),
                tsr_last_error());
    tsr_op_table_release(ops);
    return status == TSR_OK ? 0 : 1;
}
