/* A small GPT trained on made-up text, by ranks that are threads or processes,
 * and all that came of it: losses, gradient norms, whole weights and moments.
 */
#ifndef TSR_TESTS_ZERO_RUNS_H
#define TSR_TESTS_ZERO_RUNS_H

#include "base/half.h"
#include "comm/ranks.h"
#include "graph/plan_edit.h"
#include "ops/cpu_bf16.h"
#include "ops/cpu_matmul.h"
#include "train/trainer.h"

enum { RUN_MAX_STEPS = 256, RUN_KINDS = 3 };

/* Samples of one evaluation; a multiple of world * batch. */
enum { RUN_EVAL_SAMPLES = 120 };

/* How ranks come by each other's weights. */
typedef enum run_memory {
    RUN_ALIAS = 0, /* shared memory, weights used where they lie */
    RUN_COPY,      /* shared memory, weights gathered into own memory */
    RUN_PRIVATE,   /* nothing shared: everything goes through slots */
    RUN_MEMORIES
} run_memory;

static const char *const run_memory_names[RUN_MEMORIES] = {"alias", "copy",
                                                           "private"};

typedef struct tsr_run {
    tsr_gpt_config model;
    int world, batch, micro_steps;
    int steps; /* train until so many are done */
    run_memory memory;
    tsr_kernel_set kernels;
    bool processes;
    int threads; /* of one rank; 0: 1 */
    uint64_t delay_seed;
    uint32_t max_delay_us;
    int prefetch; /* as in tsr_target */
    double wire_bytes_per_s;
    bool timeline;
    const char *load, *save; /* folders of checkpoints, or NULL */
    bool evaluate; /* after every step, on samples of its own; the plans share
                      an arena */
    tsr_read_sample read;          /* of the model's config; NULL: run_read */
    void (*edit)(plan_text *text); /* of the sharded training plan, which is
                                      then ordered and placed; or NULL */
} tsr_run;

/* What ranks share: made before they start. */
typedef struct run_session {
    const tsr_run *run; /* borrowed */
    tsr_op_table *ops;
    tsr_kernel_table *kernels;
    tsr_plan *plan, *eval_plan; /* eval_plan: NULL without evaluation */
} run_session;

/* ---- text ---- */

/* SplitMix64 (Steele, Lea, Flood 2014). */
static inline uint64_t run_random(uint64_t seed) {
    uint64_t z = (seed + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Counting from some token in steps of 1 to 3, so that there is something to
 * learn. */
static inline void run_read(const void *context, int64_t sample,
                            int32_t *tokens, int32_t *targets) {
    const tsr_gpt_config *model = context;
    uint64_t random = run_random((uint64_t)sample);
    int64_t stride = 1 + (int64_t)(random >> 32) % 3;
    int64_t token = (int64_t)(random & 0xffff) % model->vocab;
    for (int64_t t = 0; t < model->seq; t++) {
        tokens[t] = (int32_t)token;
        token = (token + stride) % model->vocab;
        targets[t] = (int32_t)token;
    }
}

/* ---- plans ---- */

static inline size_t run_workspace(const void *context,
                                   const tsr_op_view *view) {
    const run_session *self = context;
    const tsr_kernel *kernel =
        tsr_kernel_table_find(self->kernels, view->op->name);
    int threads = self->run->threads ? self->run->threads : 1;
    return kernel && kernel->workspace ? kernel->workspace(view, threads) : 0;
}

static inline tsr_graph *run_graph(const run_session *self, double loss_scale) {
    const tsr_run *run = self->run;
    tsr_graph *graph;
    CHECK_OK(tsr_graph_create(self->ops, &graph));
    CHECK_OK(tsr_gpt_build(graph, &run->model, run->batch, run->model.seq,
                           loss_scale));
    return graph;
}

/* The plan whose text came of editing the one that is compiled. */
static inline tsr_plan *run_edited_plan(const run_session *self,
                                        tsr_graph *graph,
                                        const tsr_target *target,
                                        const tsr_training *training) {
    tsr_plan *plan;
    plan_text text;
    char *printed;
    CHECK_OK(tsr_compile_training_until(graph, target, training,
                                        TSR_STAGE_SHARDED, &plan));
    CHECK_OK(tsr_plan_print(plan, &printed));
    int prefetch = plan->target.prefetch;
    tsr_plan_release(plan);
    text_load(&text, printed);
    tsr_plan_text_release(printed);
    self->run->edit(&text);
    printed = text_join(&text);
    text_release(&text);
    CHECK_OK(tsr_plan_parse(self->ops, printed, strlen(printed), &plan));
    free(printed);
    plan->target.prefetch = prefetch;
    plan->target.workspace = target->workspace;
    plan->target.workspace_context = target->workspace_context;
    CHECK_OK(tsr_plan_complete(plan));
    return plan;
}

static inline void run_session_open(const tsr_run *run, run_session *self) {
    double tokens = (double)(run->world * run->batch * run->micro_steps) *
                    (double)run->model.seq;
    tsr_target target = {.world = run->world,
                         .shared = run->memory != RUN_PRIVATE,
                         .gather_alias = run->memory == RUN_ALIAS,
                         .prefetch = run->prefetch,
                         .workspace = run_workspace,
                         .workspace_context = self};
    tsr_training training = {.micro_steps = run->micro_steps,
                             .adamw = {.beta1 = 0.9,
                                       .beta2 = 0.95,
                                       .eps = 1e-8,
                                       .weight_decay = 0.1,
                                       .max_norm = 1}};
    *self = (run_session){.run = run};
    CHECK_OK(tsr_op_table_create(&self->ops));
    CHECK_OK(tsr_kernel_table_create(run->kernels, &self->kernels));
    target.products =
        tsr_kernel_table_products(self->kernels, run->model.dtype);
    if (run->edit)
        self->plan = run_edited_plan(self, run_graph(self, 1 / tokens), &target,
                                     &training);
    else
        CHECK_OK(tsr_compile_training(run_graph(self, 1 / tokens), &target,
                                      &training, &self->plan));
    self->plan->target.workspace = NULL;
    if (!run->evaluate)
        return;
    CHECK_OK(
        tsr_compile_forward(run_graph(self, 1), &target, &self->eval_plan));
    self->eval_plan->target.workspace = NULL;
}

static inline void run_session_close(run_session *self) {
    tsr_plan_release(self->eval_plan);
    tsr_plan_release(self->plan);
    tsr_kernel_table_release(self->kernels);
    tsr_op_table_release(self->ops);
}

static inline tsr_trainer_options run_options(const run_session *self,
                                              int rank) {
    const tsr_run *run = self->run;
    /* Each rank has delays of its own, and a speed: among neighbours one has no
     * delays, one has all. */
    uint64_t delay_seed =
        run->delay_seed ? run->delay_seed + 1000 * (uint64_t)rank : 0;
    uint32_t slowness = (uint32_t)(delay_seed % 3);
    tsr_samples samples = {run->read ? run->read : run_read, &run->model};
    return (tsr_trainer_options){
        .plan = self->plan,
        .eval_plan = self->eval_plan,
        .samples = samples,
        .eval_samples = samples,
        .micro_steps = run->micro_steps,
        .rates = {.peak = 5e-3, .floor = 1e-3, .warmup = 2, .steps = 40},
        .seed = 7,
        .kernels = self->kernels,
        .cpu = {.threads = run->threads,
                .delay_seed = delay_seed,
                .max_delay_us = run->max_delay_us * slowness / 2},
        .timeout_ms = 30000,
        .wire_bytes_per_s = run->wire_bytes_per_s,
        .timeline = run->timeline};
}

/* ---- outcomes ---- */

typedef struct outcome {
    size_t bytes; /* of all this */
    int world, steps;
    double losses[RANKS_MAX][RUN_MAX_STEPS], norms[RANKS_MAX][RUN_MAX_STEPS];
    double eval_losses[RANKS_MAX][RUN_MAX_STEPS];
    size_t elements; /* of the model */
    float state[];   /* (RUN_KINDS, elements): weights, exp_avg, exp_avg_sq */
} outcome;

static inline outcome *outcome_create(const tsr_run *run) {
    size_t elements = (size_t)tsr_gpt_param_count(&run->model);
    size_t bytes = sizeof(outcome) + RUN_KINDS * elements * sizeof(float);
    outcome *self = shared_memory(bytes);
    CHECK(run->world <= RANKS_MAX && run->steps <= RUN_MAX_STEPS);
    self->bytes = bytes;
    self->world = run->world;
    self->steps = run->steps;
    self->elements = elements;
    return self;
}

static inline void outcome_release(outcome *self) {
    tsr_os_unmap(self, self->bytes);
}

/* The bf16 twin, where there is one, is the weights rounded. */
static inline void check_twin(const tsr_checkpoint_tensor *tensor) {
    for (size_t i = 0; tensor->twin && i < tensor->shard_count; i++)
        CHECK_MESSAGE(tensor->twin[i] == tsr_to_bf16(tensor->weights[i]),
                      "'%s': element %zu is %.9g, its twin %.9g", tensor->name,
                      i, (double)tensor->weights[i],
                      (double)tsr_from_bf16(tensor->twin[i]));
}

static inline void check_twins(const tsr_trainer *trainer) {
    for (size_t t = 0; t < trainer->tensors.count; t++)
        check_twin(&trainer->tensors.data[t]);
}

/* Adds this rank's shards; what they have past the parameter's end is 0. */
static inline void outcome_collect(outcome *self, const tsr_trainer *trainer) {
    size_t at = 0;
    check_twins(trainer);
    for (size_t t = 0; t < trainer->tensors.count; t++) {
        const tsr_checkpoint_tensor *tensor = &trainer->tensors.data[t];
        const float *kinds[RUN_KINDS] = {tensor->weights, tensor->exp_avg,
                                         tensor->exp_avg_sq};
        size_t part = tsr_checkpoint_part(tensor, trainer->rank);
        size_t first =
            part ? at + (size_t)trainer->rank * tensor->shard_count : 0;
        for (size_t kind = 0; kind < RUN_KINDS; kind++) {
            memcpy(self->state + kind * self->elements + first, kinds[kind],
                   part * sizeof(float));
            for (size_t i = part; i < tensor->shard_count; i++)
                CHECK_MESSAGE(
                    kinds[kind][i] == 0, "rank %d: '%s' has %g in its padding",
                    trainer->rank, tensor->name, (double)kinds[kind][i]);
        }
        at += (size_t)tsr_type_count(&tensor->type);
    }
    CHECK(at == self->elements);
}

/* ---- training ---- */

typedef struct run_job {
    const run_session *session;
    outcome *outcome;
} run_job;

static inline void run_rank(rank_context *rank) {
    const run_job *job = rank->argument;
    const tsr_run *run = job->session->run;
    tsr_trainer_options options = run_options(job->session, rank->rank);
    tsr_trainer *trainer;
    CHECK_OK(tsr_trainer_create(&options, rank->bootstrap, &trainer));
    check_twins(trainer);
    if (run->load)
        CHECK_OK(tsr_trainer_load(trainer, run->load));
    check_twins(trainer);
    while (tsr_trainer_steps(trainer) < run->steps) {
        tsr_step_metrics metrics;
        CHECK_OK(tsr_trainer_step(trainer, &metrics));
        job->outcome->losses[rank->rank][metrics.step - 1] = metrics.loss;
        job->outcome->norms[rank->rank][metrics.step - 1] = metrics.grad_norm;
        if (run->evaluate)
            CHECK_OK(tsr_trainer_evaluate(
                trainer, RUN_EVAL_SAMPLES / (run->world * run->batch),
                &job->outcome->eval_losses[rank->rank][metrics.step - 1]));
    }
    if (run->save)
        CHECK_OK(tsr_trainer_save(trainer, run->save, &run->model));
    outcome_collect(job->outcome, trainer);
    tsr_trainer_release(trainer);
}

/* What all ranks say about a step is the same. */
static inline void outcome_check(const outcome *self) {
    for (int r = 1; r < self->world; r++)
        CHECK(
            memcmp(self->losses[r], self->losses[0], sizeof self->losses[0]) ==
                0 &&
            memcmp(self->norms[r], self->norms[0], sizeof self->norms[0]) == 0);
}

static inline outcome *train(const tsr_run *run) {
    run_session session;
    outcome *made = outcome_create(run);
    run_job job = {.session = &session, .outcome = made};
    run_session_open(run, &session);
    if (run->processes)
        run_processes(run->world, run_rank, &job);
    else
        run_threads(run->world, run_rank, &job);
    run_session_close(&session);
    outcome_check(made);
    return made;
}

/* ---- comparing ---- */

/* From step `first` (counted from 0) on. */
static inline void check_same_bits(const outcome *a, const outcome *b,
                                   int first, const char *what) {
    CHECK_MESSAGE(a->elements == b->elements && a->steps == b->steps, "%s",
                  what);
    for (int s = first; s < a->steps; s++)
        CHECK_MESSAGE(
            memcmp(&a->losses[0][s], &b->losses[0][s], sizeof(double)) == 0 &&
                memcmp(&a->norms[0][s], &b->norms[0][s], sizeof(double)) == 0,
            "%s: step %d: loss %.9g and %.9g, gradient norm %.9g and %.9g",
            what, s + 1, a->losses[0][s], b->losses[0][s], a->norms[0][s],
            b->norms[0][s]);
    for (size_t i = 0; i < RUN_KINDS * a->elements; i++)
        CHECK_MESSAGE(memcmp(&a->state[i], &b->state[i], sizeof(float)) == 0,
                      "%s: element %zu of kind %zu: %.9g and %.9g", what,
                      i % a->elements, i / a->elements, (double)a->state[i],
                      (double)b->state[i]);
}

#endif
