/* What it gains that gathers run ahead of their use, over wires of several
 * speeds.
 *
 *   bench_overlap [STEPS]        default: 15 of each, after two of warm-up
 *
 * Two forked ranks of one thread train a small GPT in three ways, step by step
 * in turns: weights used in place (alias), gathered when they are needed
 * (prefetch 0), gathered while the group before computes (prefetch 1). The wire
 * is injected: a call takes as long as its bytes would; reduces go over it too,
 * also in the first way. `waits` is how long compute stood still for gathers;
 * `0 / 1` the median of the ratios of steps that ran one after the other, so
 * that what else runs on the machine cancels as far as it can. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "train/trainer.h"

#define RANKS 2
#define WARM_UP 2
#define MOST_STEPS 1000
#define WAYS 3

static const tsr_gpt_config model = {.layers = 6,
                                     .heads = 4,
                                     .dim = 256,
                                     .vocab = 512,
                                     .seq = 128,
                                     .norm_eps = 1e-5};
enum { BATCH = 2 };

static const struct {
    const char *name;
    bool alias;
    int prefetch; /* as in tsr_target */
} ways[WAYS] = {
    {"alias", true, -1}, {"prefetch 0", false, -1}, {"prefetch 1", false, 1}};

/* 0: no wire. */
static const double gigabytes_per_s[] = {0, 4, 2, 1, 0.5, 0.25};

typedef struct way {
    tsr_plan *plan;
    tsr_trainer *trainer;
    double ms[MOST_STEPS], waits_ms[MOST_STEPS];
} way;

typedef struct bench {
    int rank;
    long steps;
    tsr_bootstrap *bootstrap;
    tsr_op_table *ops;
    tsr_kernel_table *kernels;
    way *ways; /* (WAYS) */
} bench;

/* Tokens without meaning, different in every sample. */
static void read_sample(const void *context, int64_t sample, int32_t *tokens,
                        int32_t *targets) {
    uint64_t state = (uint64_t)sample * 0x9e3779b97f4a7c15u + 1;
    (void)context;
    for (int64_t t = 0; t < model.seq; t++) {
        state = state * 6364136223846793005u +
                1442695040888963407u; /* Knuth's MMIX generator */
        tokens[t] = (int32_t)((state >> 33) % (uint64_t)model.vocab);
        targets[t] = (int32_t)((state >> 17) % (uint64_t)model.vocab);
    }
}

/* ---- making ---- */

static tsr_status compile(bench *self, int w, tsr_plan **out_plan) {
    tsr_workspace_query query = {self->kernels, 1};
    tsr_target target = {.world = RANKS,
                         .shared = true,
                         .gather_alias = ways[w].alias,
                         .prefetch = ways[w].prefetch,
                         .workspace = tsr_kernel_workspace,
                         .workspace_context = &query};
    tsr_training training = {
        .micro_steps = 1,
        .adamw = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .max_norm = 1}};
    tsr_graph *graph;
    TSR_TRY(tsr_graph_create(self->ops, &graph));
    tsr_status status = tsr_gpt_build(graph, &model, BATCH, model.seq,
                                      1 / (double)(RANKS * BATCH * model.seq));
    if (status != TSR_OK) {
        tsr_graph_release(graph);
        return status;
    }
    TSR_TRY(tsr_compile_training(graph, &target, &training, out_plan));
    (*out_plan)->target.workspace = NULL; /* the query ends with this call */
    return TSR_OK;
}

static tsr_status open_ways(bench *self, double gigabytes) {
    for (int w = 0; w < WAYS; w++) {
        way *at = &self->ways[w];
        TSR_TRY(compile(self, w, &at->plan));
        tsr_trainer_options options = {.plan = at->plan,
                                       .samples = {read_sample, NULL},
                                       .micro_steps = 1,
                                       .rates = {.peak = 1e-4, .steps = 1000},
                                       .seed = 1,
                                       .kernels = self->kernels,
                                       .cpu = {.threads = 1},
                                       .wire_bytes_per_s = gigabytes * 1e9,
                                       .timeline = true};
        TSR_TRY(tsr_trainer_create(&options, self->bootstrap, &at->trainer));
    }
    return TSR_OK;
}

static void close_ways(bench *self) {
    for (int w = 0; w < WAYS; w++) {
        tsr_trainer_release(self->ways[w].trainer);
        tsr_plan_release(self->ways[w].plan);
        self->ways[w].trainer = NULL;
        self->ways[w].plan = NULL;
    }
}

/* ---- measuring ---- */

static double waits_ms(const way *at) {
    const tsr_graph *graph = at->plan->graph;
    double ms = 0;
    tsr_node_time time;
    for (int32_t n = 0; n < tsr_graph_node_count(graph); n++) {
        const tsr_node *node = tsr_graph_node_at(graph, (tsr_node_id){n});
        if (strcmp(tsr_graph_op(graph, node)->name, "wait") == 0 &&
            tsr_executor_node_time(at->trainer->executor, (tsr_node_id){n}, 0,
                                   &time))
            ms += 1e-6 * (double)(time.end_ns - time.begin_ns);
    }
    return ms;
}

static int by_value(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return a < b ? -1 : a > b;
}

static double median(double *values, long count) {
    qsort(values, (size_t)count, sizeof *values, by_value);
    return values[count / 2];
}

static tsr_status measure(bench *self, double gigabytes) {
    tsr_step_metrics metrics;
    double ms[WAYS], waits[WAYS], ratios[MOST_STEPS];
    for (long i = -WARM_UP; i < self->steps; i++)
        for (int w = 0; w < WAYS; w++) {
            TSR_TRY(tsr_trainer_step(self->ways[w].trainer, &metrics));
            if (i < 0)
                continue;
            self->ways[w].ms[i] = 1e3 * metrics.seconds;
            self->ways[w].waits_ms[i] = waits_ms(&self->ways[w]);
        }
    if (self->rank != 0)
        return TSR_OK;
    for (long i = 0; i < self->steps; i++)
        ratios[i] = self->ways[1].ms[i] / self->ways[2].ms[i];
    for (int w = 0; w < WAYS; w++) {
        ms[w] = median(self->ways[w].ms, self->steps);
        waits[w] = median(self->ways[w].waits_ms, self->steps);
    }
    if (gigabytes > 0)
        printf("%9.2f", gigabytes);
    else
        printf("%9s", "none");
    printf("%10.1f%12.1f%12.1f%9.2f%15.1f%12.1f\n", ms[0], ms[1], ms[2],
           median(ratios, self->steps), waits[1], waits[2]);
    fflush(stdout);
    return TSR_OK;
}

static tsr_status run(bench *self) {
    tsr_status status = TSR_OK;
    TSR_TRY_GOTO(tsr_op_table_create(&self->ops));
    TSR_TRY_GOTO(tsr_kernel_table_create(TSR_KERNELS_CPU, &self->kernels));
    TSR_TRY_GOTO(tsr_alloc(WAYS, sizeof *self->ways, (void **)&self->ways));
    if (self->rank == 0)
        printf("GPT, %lld layers, dim %lld, %d x %d tokens a rank, %d ranks; "
               "medians of %ld steps, ms\n\n%9s%10s%12s%12s%9s%15s%12s\n",
               (long long)model.layers, (long long)model.dim, (int)BATCH,
               (int)model.seq, RANKS, self->steps, "wire GB/s", ways[0].name,
               ways[1].name, ways[2].name, "0 / 1", "waits of 0", "of 1");
    for (size_t i = 0; i < sizeof gigabytes_per_s / sizeof *gigabytes_per_s;
         i++) {
        TSR_TRY_GOTO(open_ways(self, gigabytes_per_s[i]));
        TSR_TRY_GOTO(measure(self, gigabytes_per_s[i]));
        close_ways(self);
    }
done:
    if (self->ways)
        close_ways(self);
    tsr_free(self->ways);
    tsr_kernel_table_release(self->kernels);
    tsr_op_table_release(self->ops);
    return status;
}

/* ---- ranks ---- */

static int run_rank(tsr_fork_group *group, int rank, long steps) {
    bench self = {.rank = rank, .steps = steps};
    tsr_status status =
        tsr_bootstrap_create_forked(group, rank, &self.bootstrap);
    if (status == TSR_OK)
        status = run(&self);
    if (status != TSR_OK)
        fprintf(stderr, "rank %d: %s: %s\n", rank, tsr_status_name(status),
                tsr_last_error());
    tsr_bootstrap_release(self.bootstrap);
    fflush(stdout);
    return status != TSR_OK;
}

int main(int argc, char **argv) {
    tsr_fork_group *group;
    long steps = argc > 1 ? strtol(argv[1], NULL, 10) : 15;
    int failed = 0, wait_status;
    if (argc > 2 || steps < 1 || steps > MOST_STEPS) {
        fprintf(stderr, "usage: bench_overlap [1-%d]\n", MOST_STEPS);
        return 2;
    }
    if (tsr_fork_group_create(RANKS, &group) != TSR_OK) {
        fprintf(stderr, "%s\n", tsr_last_error());
        return 1;
    }
    for (int r = 0; r < RANKS; r++) {
        pid_t pid = fork();
        if (pid == 0)
            _exit(run_rank(group, r, steps));
        failed |= pid < 0;
    }
    tsr_fork_group_release(group);
    while (wait(&wait_status) > 0)
        failed |= wait_status != 0;
    return failed;
}
