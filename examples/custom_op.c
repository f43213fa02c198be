/* An op of the program's own: its row, its kernels, a model that uses it.
 *
 *     custom_op                   trains a small model with it over 2 ranks
 *     custom_op --check           compares its gradient with differences of
 *                                 the loss
 *
 * The op is RMS norm (Zhang and Sennrich 2019), a layer norm without mean and
 * bias:
 *
 *     y[n, c] = x[n, c] * rstd[n] * weight[c]
 *     rstd[n] = 1 / sqrt(eps + mean over c of x[n, c]^2)
 *
 * A *row* tells the graph what the op means: the types that come out, what it
 * costs, the nodes of its backward. A *kernel* runs it. The backward is an op
 * too, so there are two of each. Nothing in the library knows them: passes
 * shard the weight, lay out the memory and schedule the kernels from what the
 * rows say. */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <tessera/tessera.h>

static void check(tsr_status status) {
    if (status == TSR_OK)
        return;
    fprintf(stderr, "%s: %s\n", tsr_status_name(status), tsr_last_error());
    exit(EXIT_FAILURE);
}

/* ---- the rows ---- */

static int64_t channels(const tsr_type *x) { return x->shape[x->dims - 1]; }
static int64_t row_count(const tsr_type *x) {
    return tsr_type_count(x) / channels(x);
}

/* x f32 [..., C] with at least one leading dimension, weight f32 [C]. */
static bool fit(const tsr_type *x, const tsr_type *weight) {
    return x->dtype == TSR_F32 && x->dims >= 2 && weight->dtype == TSR_F32 &&
           weight->dims == 1 && weight->shape[0] == channels(x);
}

static tsr_type without_last(tsr_type type) {
    type.shape[--type.dims] = 0;
    return type;
}

static tsr_status norm_infer(const tsr_op_view *view, tsr_type *outputs,
                             size_t *out_count) {
    const tsr_type *x = &view->inputs[0];
    if (!fit(x, &view->inputs[1]))
        return tsr_fail(TSR_INVALID_ARGUMENT,
                        "x must be f32 [..., C], the weight f32 [C]");
    outputs[0] = *x;
    outputs[1] = without_last(*x);
    *out_count = 2;
    return TSR_OK;
}

static tsr_status grad_infer(const tsr_op_view *view, tsr_type *outputs,
                             size_t *out_count) {
    const tsr_type *x = &view->inputs[0], *weight = &view->inputs[1];
    tsr_type rows = without_last(*x);
    if (!fit(x, weight) || !tsr_type_equal(&view->inputs[2], &rows) ||
        !tsr_type_equal(&view->inputs[3], x))
        return tsr_fail(TSR_INVALID_ARGUMENT,
                        "weight, rstd or dy does not fit x");
    outputs[0] = *x;
    outputs[1] = *weight;
    *out_count = 2;
    return TSR_OK;
}

/* Operations. Where `bytes` stays 0, each operand counts once. */
static void norm_cost(const tsr_op_view *view, tsr_cost *cost) {
    cost->flops = 4.0 * (double)tsr_type_count(&view->inputs[0]);
}
static void grad_cost(const tsr_op_view *view, tsr_cost *cost) {
    cost->flops = 9.0 * (double)tsr_type_count(&view->inputs[0]);
}

/* A value may be used more than once: its gradient is the sum of the parts. */
static void add_part(const tsr_vjp *vjp, int input, tsr_value_id part) {
    tsr_value_id before = vjp->in_grads[input];
    vjp->in_grads[input] =
        before.index < 0 ? part : tsr_add(vjp->graph, part, before);
}

static tsr_status norm_vjp(const tsr_vjp *vjp) {
    tsr_value_id inputs[] = {vjp->inputs[0], vjp->inputs[1], vjp->outputs[1],
                             vjp->out_grads[0]};
    tsr_value_id grads[2];
    tsr_graph_node(vjp->graph, "my_rms_norm_grad", inputs, 4, NULL, 0, grads);
    for (int i = 0; i < 2; i++)
        if (vjp->wanted[i])
            add_part(vjp, i, grads[i]);
    return tsr_graph_status(vjp->graph);
}

/* dx may be written over dy: the kernel reads each element before it writes
 * it. */
static int grad_alias(const tsr_op_view *view, int output) {
    (void)view;
    return output == 0 ? 3 : -1;
}

static const tsr_op norm_row = {
    .name = "my_rms_norm",
    .signature = "x[..., C], weight[C] -> y[..., C], rstd[...]",
    .min_inputs = 2,
    .max_inputs = 2,
    .outputs = 2,
    .attrs = "eps~",
    .saved = 1 << 1, /* rstd is for the backward alone */
    .infer = norm_infer,
    .cost = norm_cost,
    .vjp = norm_vjp,
};
static const tsr_op grad_row = {
    .name = "my_rms_norm_grad",
    .signature =
        "x[..., C], weight[C], rstd[...], dy[..., C] -> dx[..., C], dweight[C]",
    .min_inputs = 4,
    .max_inputs = 4,
    .outputs = 2,
    .infer = grad_infer,
    .cost = grad_cost,
    .may_alias = grad_alias,
};

/* ---- the kernels ----
 *
 * N rows, C channels. Work is split over threads by rows. Sums over rows go
 * through chunks of a fixed size, so that no bit depends on the number of
 * threads. */

/* What `run` would otherwise find anew at each call. */
typedef struct norm_state {
    int64_t N, C;
    float eps;
} norm_state;

static tsr_status norm_prepare(const tsr_op_view *view, int threads,
                               void **out_state) {
    (void)threads;
    norm_state *state = malloc(sizeof *state);
    *out_state = state;
    if (state == NULL)
        return tsr_fail(TSR_OUT_OF_MEMORY, "no memory for my_rms_norm");
    state->N = row_count(&view->inputs[0]);
    state->C = channels(&view->inputs[0]);
    state->eps = (float)tsr_view_real(view, "eps", 1e-5);
    return TSR_OK;
}

static void norm_rows(void *context, int64_t begin, int64_t end) {
    const tsr_kernel_call *call = context;
    const norm_state *state = call->state;
    const int64_t C = state->C;
    const float *weight = call->in[1]; /* (C) */
    float *rstd = call->out[1];        /* (N) */
    for (int64_t n = begin; n < end; n++) {
        const float *x = (const float *)call->in[0] + n * C; /* of (N, C) */
        float *y = (float *)call->out[0] + n * C;            /* of (N, C) */
        float squares = 0;
        for (int64_t c = 0; c < C; c++)
            squares += x[c] * x[c];
        rstd[n] = 1 / sqrtf(squares / (float)C + state->eps);
        for (int64_t c = 0; c < C; c++)
            y[c] = x[c] * rstd[n] * weight[c];
    }
}

static tsr_status norm_run(const tsr_kernel_call *call) {
    const norm_state *state = call->state;
    tsr_kernel_call copy = *call;
    tsr_device_parallel(call->device, state->N, norm_rows, &copy);
    return TSR_OK;
}

enum { CHUNK = 16 }; /* rows that one partial sum of dweight covers */

static int64_t chunk_count(const tsr_op_view *view) {
    return (row_count(&view->inputs[0]) + CHUNK - 1) / CHUNK;
}

/* partial (chunks, C). The plan finds room for it, once, for all nodes. */
static size_t grad_workspace(const tsr_op_view *view, int threads) {
    (void)threads;
    return (size_t)(chunk_count(view) * channels(&view->inputs[0])) *
           sizeof(float);
}

/* With g = dy * weight:
 *
 *     dx[n, c]   = rstd * (g[c] - x[c] * rstd^2 * mean over c of g[c] * x[c])
 *     dweight[c] = sum over n of dy[n, c] * x[n, c] * rstd[n] */
static void grad_row_of(const tsr_kernel_call *call, int64_t n, float *sums) {
    const int64_t C = channels(&call->view.inputs[0]);
    const float *x = (const float *)call->in[0] + n * C;  /* of (N, C) */
    const float *weight = call->in[1];                    /* (C) */
    const float rstd = ((const float *)call->in[2])[n];   /* of (N) */
    const float *dy = (const float *)call->in[3] + n * C; /* of (N, C) */
    float *dx = (float *)call->out[0] + n * C;            /* may be dy */
    float dot = 0;
    for (int64_t c = 0; c < C; c++) {
        sums[c] += dy[c] * x[c] * rstd;
        dot += dy[c] * weight[c] * x[c];
    }
    dot *= rstd * rstd / (float)C;
    for (int64_t c = 0; c < C; c++)
        dx[c] = rstd * (dy[c] * weight[c] - x[c] * dot);
}

static void grad_chunks(void *context, int64_t begin, int64_t end) {
    const tsr_kernel_call *call = context;
    const int64_t C = channels(&call->view.inputs[0]);
    const int64_t N = row_count(&call->view.inputs[0]);
    for (int64_t chunk = begin; chunk < end; chunk++) {
        float *sums = (float *)call->workspace + chunk * C;
        memset(sums, 0, (size_t)C * sizeof *sums);
        for (int64_t n = chunk * CHUNK; n < N && n < (chunk + 1) * CHUNK; n++)
            grad_row_of(call, n, sums);
    }
}

static tsr_status grad_run(const tsr_kernel_call *call) {
    const int64_t C = channels(&call->view.inputs[0]);
    const int64_t chunks = chunk_count(&call->view);
    const float *partial = call->workspace; /* (chunks, C) */
    float *dweight = call->out[1];          /* (C) */
    tsr_kernel_call copy = *call;
    tsr_device_parallel(call->device, chunks, grad_chunks, &copy);
    memset(dweight, 0, (size_t)C * sizeof *dweight);
    for (int64_t chunk = 0; chunk < chunks; chunk++)
        for (int64_t c = 0; c < C; c++)
            dweight[c] += partial[chunk * C + c];
    return TSR_OK;
}

static const tsr_kernel norm_kernel = {.op = "my_rms_norm",
                                       .prepare = norm_prepare,
                                       .unprepare = free,
                                       .run = norm_run};
static const tsr_kernel grad_kernel = {
    .op = "my_rms_norm_grad", .workspace = grad_workspace, .run = grad_run};

/* The library's tables, and ours in them. */
static void make_tables(tsr_op_table **out_ops,
                        tsr_kernel_table **out_kernels) {
    check(tsr_op_table_create(out_ops));
    check(tsr_op_table_add(*out_ops, &norm_row));
    check(tsr_op_table_add(*out_ops, &grad_row));
    check(tsr_kernel_table_create(TSR_KERNELS_CPU, out_kernels));
    check(tsr_kernel_table_add(*out_kernels, &norm_kernel));
    check(tsr_kernel_table_add(*out_kernels, &grad_kernel));
}

/* ---- a model that uses it ---- */

enum { RANKS = 2, BATCH = 3, SEQ = 19, STEPS = 200, VOCAB = 29, DIM = 23 };
enum { THREADS = 2 }; /* of each rank's kernels */

/* Every parameter of the model. */
static const tsr_param params[] = {
    {.name = "embed", .type = {TSR_F32, 2, {VOCAB, DIM}}},
    {.name = "norm_1", .type = {TSR_F32, 1, {DIM}}, .init_value = 1},
    {.name = "hidden", .type = {TSR_F32, 2, {DIM, DIM}}},
    {.name = "norm_2", .type = {TSR_F32, 1, {DIM}}, .init_value = 1},
    {.name = "head", .type = {TSR_F32, 2, {DIM, VOCAB}}},
};
enum { PARAMS = sizeof params / sizeof *params };

static tsr_value_id param(tsr_graph *g, int index) {
    tsr_param p = params[index];
    if (p.type.dims == 2) {
        p.init = TSR_INIT_NORMAL;
        p.init_value = 0.2;
    }
    return tsr_graph_param(g, &p);
}

static tsr_value_id my_rms_norm(tsr_graph *g, tsr_value_id x,
                                tsr_value_id weight) {
    tsr_attr eps = TSR_ATTR_REAL("eps", 1e-6);
    return tsr_graph_node(g, "my_rms_norm", (tsr_value_id[]){x, weight}, 2,
                          &eps, 1, NULL);
}

static void build_model(tsr_graph *g) {
    const tsr_value_id none = {-1};
    tsr_type ids = {.dtype = TSR_I32, .dims = 2, .shape = {BATCH, SEQ}};
    tsr_type scalar = {.dtype = TSR_F32, .dims = 1, .shape = {1}};
    tsr_value_id tokens = tsr_graph_declare(g, "tokens", TSR_ROLE_INPUT, &ids);
    tsr_value_id targets =
        tsr_graph_declare(g, "targets", TSR_ROLE_INPUT, &ids);
    tsr_value_id loss = tsr_graph_declare(g, "loss", TSR_ROLE_STATE, &scalar);
    tsr_value_id x, y;

    x = tsr_embedding(g, tokens, param(g, 0));
    y = my_rms_norm(g, x, param(g, 1));
    y = tsr_gelu(g, tsr_linear(g, y, param(g, 2), none, TSR_WEIGHT_IN_OUT));
    y = my_rms_norm(g, tsr_add(g, x, y), param(g, 3));
    y = tsr_linear(g, y, param(g, 4), none, TSR_WEIGHT_IN_OUT);
    tsr_graph_set_loss(g, tsr_cross_entropy(g, y, targets, loss, VOCAB,
                                            1.0 / (RANKS * BATCH * SEQ)));
    check(tsr_graph_status(g)); /* of all the calls above */
}

static tsr_plan *compile(const tsr_op_table *ops,
                         const tsr_workspace_query *query) {
    tsr_target host = {.world = RANKS,
                       .shared = true,
                       .gather_alias = true,
                       .workspace = tsr_kernel_workspace,
                       .workspace_context = query};
    tsr_training training = {
        .micro_steps = 1, .adamw = {.beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8}};
    tsr_graph *graph;
    tsr_plan *plan;
    check(tsr_graph_create(ops, &graph));
    build_model(graph);
    check(tsr_compile_training(graph, &host, &training, &plan));
    return plan; /* owns the graph */
}

/* What the model learns: each token follows from the one before. The samples of
 * one step come again in the next. */
static void read_sample(const void *context, int64_t sample, int32_t *tokens,
                        int32_t *targets) {
    (void)context;
    int32_t token = (int32_t)(sample % (RANKS * BATCH) * 5 % VOCAB);
    for (int t = 0; t < SEQ; t++) {
        tokens[t] = token;
        targets[t] = token = (token * 11 + 3) % VOCAB;
    }
}

/* ---- ranks ---- */

typedef struct rank {
    const tsr_trainer_options *options;
    tsr_bootstrap *bootstrap; /* how the ranks find each other */
    tsr_trainer *trainer;
    bool (*work)(struct rank *self);
    bool good; /* what it returned */
} rank;

static double step(rank *self) {
    tsr_step_metrics metrics;
    check(tsr_trainer_step(self->trainer, &metrics));
    return metrics.loss;
}

static bool train(rank *self) {
    bool tells = tsr_bootstrap_rank(self->bootstrap) == 0;
    double first = 0, last = 0;
    for (int s = 1; s <= STEPS; s++) {
        last = step(self);
        if (s == 1)
            first = last;
        if (tells && (s == 1 || s % 50 == 0))
            printf("step %3d   loss %.4f\n", s, last);
    }
    return last < first / 10;
}

/* ---- the check ----
 *
 * With a learning rate of 0 a step leaves the weights alone and gives loss and
 * gradient. For each parameter, along a direction d of length 1 that follows
 * the gradient g at a random half of its elements:
 *
 *     (loss(w + h d) - loss(w - h d)) / 2 h   should be   d . g */

/* Sums over ranks; also a barrier: shards that ranks wrote before are there for
 * all. */
static double sum_ranks(const rank *self, double mine) {
    double all[RANKS], sum = 0;
    check(tsr_bootstrap_exchange(self->bootstrap, &mine, sizeof mine, all,
                                 60000));
    for (int r = 0; r < RANKS; r++)
        sum += all[r];
    return sum;
}

/* The loss with this rank's part of w moved by h d, and w moved back. */
static double moved_loss(rank *self, float *w, const float *d, int64_t count,
                         double h) {
    float *kept = malloc((size_t)count * sizeof *kept);
    if (kept == NULL)
        exit(EXIT_FAILURE);
    memcpy(kept, w, (size_t)count * sizeof *kept);
    for (int64_t i = 0; i < count; i++)
        w[i] += (float)(h * d[i]);
    sum_ranks(self, 0);
    double loss = step(self);
    memcpy(w, kept, (size_t)count * sizeof *kept);
    free(kept);
    return loss;
}

/* d  (count): this rank's part of the direction, from the gradient's; returns
 * d . g over all ranks. */
static double direction(const rank *self, const float *g, float *d,
                        int64_t count) {
    double squares = 0;
    for (int64_t i = 0; i < count; i++) {
        uint32_t random = (uint32_t)(i + 1) * 0x9e3779b9u;
        d[i] = random >> 16 & 1 ? g[i] : 0;
        squares += (double)d[i] * d[i];
    }
    double length = sqrt(sum_ranks(self, squares));
    for (int64_t i = 0; i < count; i++)
        d[i] = (float)(d[i] / length);
    return length;
}

static bool check_param(rank *self, const char *name) {
    const double h = 0.02, tolerance = 0.002; /* f32 losses: about 1e-4 */
    char grad_name[64];
    int64_t count = 0;
    snprintf(grad_name, sizeof grad_name, "%s.grad", name);
    step(self); /* with the weights as they are */
    const float *g = tsr_trainer_value(self->trainer, grad_name, NULL);
    float *w = tsr_trainer_value(self->trainer, name, &count);
    float *d = malloc((size_t)count * sizeof *d);
    if (d == NULL)
        exit(EXIT_FAILURE);
    double expected = direction(self, g, d, count);
    double above = moved_loss(self, w, d, count, h);
    double below = moved_loss(self, w, d, count, -h);
    free(d);
    sum_ranks(self, 0); /* the weights are back everywhere */
    double found = (above - below) / (2 * h);
    double error = fabs(found - expected) / expected;
    if (tsr_bootstrap_rank(self->bootstrap) == 0)
        printf("%-8s  gradient %.6f  differences %.6f  error %.4f %%\n", name,
               expected, found, 100 * error);
    return error < tolerance; /* false for NaN */
}

static bool check_gradients(rank *self) {
    bool good = true;
    for (int p = 0; p < PARAMS; p++)
        good = check_param(self, params[p].name) && good;
    return good;
}

/* ---- all ranks, as threads ---- */

static void *run_rank(void *context) {
    rank *self = context;
    check(tsr_trainer_create(self->options, self->bootstrap, &self->trainer));
    self->good = self->work(self);
    tsr_trainer_release(self->trainer);
    tsr_bootstrap_release(self->bootstrap);
    return NULL;
}

static bool run_ranks(const tsr_trainer_options *options,
                      bool (*work)(rank *self)) {
    tsr_bootstrap *bootstraps[RANKS];
    pthread_t threads[RANKS];
    rank ranks[RANKS];
    bool good = true;
    check(tsr_bootstrap_create_threads(RANKS, bootstraps));
    for (int r = 0; r < RANKS; r++) {
        ranks[r] = (rank){options, bootstraps[r], .work = work};
        if (pthread_create(&threads[r], NULL, run_rank, &ranks[r]) != 0)
            exit(EXIT_FAILURE);
    }
    for (int r = 0; r < RANKS; r++) {
        pthread_join(threads[r], NULL);
        good = good && ranks[r].good;
    }
    return good;
}

int main(int argc, char **argv) {
    bool checks = argc > 1 && strcmp(argv[1], "--check") == 0;
    tsr_op_table *ops;
    tsr_kernel_table *kernels;
    if (argc > 1 && !checks) {
        fprintf(stderr, "usage: custom_op [--check]\n");
        return EXIT_FAILURE;
    }
    make_tables(&ops, &kernels);
    tsr_workspace_query query = {kernels, THREADS};
    tsr_plan *plan = compile(ops, &query);
    tsr_trainer_options options = {.plan = plan,
                                   .samples = {read_sample, NULL},
                                   .micro_steps = 1,
                                   .kernels = kernels,
                                   .cpu = {.threads = THREADS}};
    options.rates = (tsr_rates){.peak = checks ? 0 : 1e-2, .steps = STEPS};
    bool good = run_ranks(&options, checks ? check_gradients : train);
    tsr_plan_release(plan);
    tsr_kernel_table_release(kernels);
    tsr_op_table_release(ops);
    if (!good)
        fprintf(stderr, checks ? "the gradient is wrong\n"
                               : "the loss has not fallen enough\n");
    return good ? 0 : EXIT_FAILURE;
}
