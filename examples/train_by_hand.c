/* Trains a small language model that is built by hand, op by op.
 *
 *     train_by_hand [FILE]        learns the bytes of FILE, or of one sentence
 *
 * A graph says what the model computes, from tokens to a loss. It is compiled
 * to a plan: the whole training step for two ranks, with the backward, the
 * communication, AdamW and every byte of memory. A trainer on each rank walks
 * the plan. The ranks are threads here; each owns half of all weights. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include <tessera/tessera.h>

enum { RANKS = 2, BATCH = 8, SEQ = 32, STEPS = 200 };
enum { DIM = 64, HEADS = 4, VOCAB = 256 /* a token is a byte */ };

static void check(tsr_status status) {
    if (status == TSR_OK)
        return;
    fprintf(stderr, "%s: %s\n", tsr_status_name(status), tsr_last_error());
    exit(EXIT_FAILURE);
}

/* ---- the graph ---- */

static const tsr_value_id none = {-1};

static tsr_value_id matrix(tsr_graph *graph, const char *name, int64_t rows,
                           int64_t columns) {
    tsr_type type = {.dtype = TSR_F32, .dims = 2, .shape = {rows, columns}};
    tsr_param param = {.name = name, .type = type, .init = TSR_INIT_NORMAL};
    param.init_value = 0.02; /* the standard deviation */
    return tsr_graph_param(graph, &param);
}

static tsr_value_id vector(tsr_graph *graph, const char *name, double value) {
    tsr_type type = {.dtype = TSR_F32, .dims = 1, .shape = {DIM}};
    tsr_param param = {.name = name, .type = type, .init_value = value};
    return tsr_graph_param(graph, &param);
}

static tsr_value_id linear(tsr_graph *graph, const char *name, tsr_value_id x,
                           int64_t in, int64_t out) {
    tsr_value_id weight = matrix(graph, name, in, out);
    return tsr_linear(graph, x, weight, none, TSR_WEIGHT_IN_OUT);
}

/* One transformer block between an embedding and a head. */
static void build_model(tsr_graph *graph) {
    tsr_type ids = {.dtype = TSR_I32, .dims = 2, .shape = {BATCH, SEQ}};
    tsr_type scalar = {.dtype = TSR_F32, .dims = 1, .shape = {1}};
    tsr_value_id tokens, targets, loss, x, y;
    tokens = tsr_graph_declare(graph, "tokens", TSR_ROLE_INPUT, &ids);
    targets = tsr_graph_declare(graph, "targets", TSR_ROLE_INPUT, &ids);
    loss = tsr_graph_declare(graph, "loss", TSR_ROLE_STATE, &scalar);

    x = tsr_embedding(graph, tokens, matrix(graph, "embed", VOCAB, DIM));
    x = tsr_position_add(graph, x, matrix(graph, "position", SEQ, DIM), none);

    y = tsr_layer_norm(graph, x, vector(graph, "norm_1.weight", 1),
                       vector(graph, "norm_1.bias", 0), 1e-5);
    y = linear(graph, "qkv", y, DIM, 3 * DIM);
    y = tsr_attention(graph, y, HEADS, HEADS);
    x = tsr_add(graph, linear(graph, "project", y, DIM, DIM), x);

    y = tsr_layer_norm(graph, x, vector(graph, "norm_2.weight", 1),
                       vector(graph, "norm_2.bias", 0), 1e-5);
    y = tsr_gelu(graph, linear(graph, "up", y, DIM, 4 * DIM));
    x = tsr_add(graph, linear(graph, "down", y, 4 * DIM, DIM), x);

    x = linear(graph, "head", x, DIM, VOCAB);
    x = tsr_cross_entropy(graph, x, targets, loss, VOCAB,
                          1.0 / (RANKS * BATCH * SEQ) /* the mean */);
    tsr_graph_set_loss(graph, x);
    check(tsr_graph_status(graph)); /* of all the calls above */
}

/* ---- the plan ---- */

/* The scratch memory of a node's kernel; the plan finds room for it. */
static size_t workspace(const void *kernels, const tsr_op_view *view) {
    const tsr_kernel *kernel = tsr_kernel_table_find(kernels, view->op->name);
    return kernel && kernel->workspace ? kernel->workspace(view, 1) : 0;
}

static void compile(tsr_graph *graph, const tsr_kernel_table *kernels,
                    tsr_plan **out_plan) {
    tsr_target host = {.world = RANKS, .shared = true, .gather_alias = true};
    host.workspace = workspace;
    host.workspace_context = kernels;
    tsr_adamw adamw = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .max_norm = 1};
    tsr_training training = {.micro_steps = 1, .adamw = adamw};
    check(tsr_compile_training(graph, &host, &training, out_plan));
}

/* ---- the ranks ---- */

typedef struct text {
    unsigned char *bytes;
    uint64_t count;
} text;

/* SEQ bytes from anywhere, and for each the byte that follows. */
static void read_sample(const void *context, int64_t sample, int32_t *tokens,
                        int32_t *targets) {
    const text *from = context;
    uint64_t mixed = ((uint64_t)sample * 0x9e3779b97f4a7c15u) >> 32;
    uint64_t first = mixed % (from->count - SEQ);
    for (uint64_t t = 0; t < SEQ; t++) {
        tokens[t] = from->bytes[first + t];
        targets[t] = from->bytes[first + t + 1];
    }
}

typedef struct rank {
    pthread_t thread;
    tsr_bootstrap *bootstrap; /* how the ranks find each other */
    const tsr_trainer_options *options;
    tsr_step_metrics first, last;
} rank;

static void *train(void *context) {
    rank *self = context;
    tsr_trainer *trainer;
    check(tsr_trainer_create(self->options, self->bootstrap, &trainer));
    check(tsr_trainer_step(trainer, &self->first));
    for (int64_t step = 2; step <= STEPS; step++) {
        check(tsr_trainer_step(trainer, &self->last));
        if (step % 20 == 0 && tsr_bootstrap_rank(self->bootstrap) == 0)
            printf("step %3d   loss %.3f\n", (int)step, self->last.loss);
    }
    tsr_trainer_release(trainer);
    tsr_bootstrap_release(self->bootstrap);
    return NULL;
}

static void train_on_all_ranks(const tsr_trainer_options *options,
                               rank ranks[RANKS]) {
    tsr_bootstrap *bootstraps[RANKS];
    check(tsr_bootstrap_create_threads(RANKS, bootstraps));
    for (int r = 0; r < RANKS; r++) {
        ranks[r] = (rank){.bootstrap = bootstraps[r], .options = options};
        if (pthread_create(&ranks[r].thread, NULL, train, &ranks[r]) != 0)
            exit(EXIT_FAILURE);
    }
    for (int r = 0; r < RANKS; r++)
        pthread_join(ranks[r].thread, NULL);
}

static text read_text(const char *path) {
    static unsigned char bytes[1 << 20] =
        "She sells sea shells by the sea shore. The shells she sells are sea "
        "shells, I am sure. So if she sells shells on the sea shore, then I am "
        "sure that she sells sea-shore shells.";
    text all = {bytes, 0};
    while (bytes[all.count])
        all.count++;
    if (!path)
        return all;
    FILE *file = fopen(path, "rb");
    if (file)
        all.count = fread(bytes, 1, sizeof bytes, file);
    if (!file || fclose(file) != 0 || all.count <= SEQ) {
        fprintf(stderr, "%s: cannot be read, or is too short\n", path);
        exit(EXIT_FAILURE);
    }
    return all;
}

int main(int argc, char **argv) {
    text all = read_text(argc > 1 ? argv[1] : NULL);
    tsr_op_table *ops;
    tsr_kernel_table *kernels;
    tsr_graph *graph;
    tsr_plan *plan;
    rank ranks[RANKS];
    check(tsr_op_table_create(&ops));
    check(tsr_kernel_table_create(TSR_KERNELS_CPU, &kernels));
    check(tsr_graph_create(ops, &graph));
    build_model(graph);
    compile(graph, kernels, &plan); /* takes the graph */

    tsr_rates rates = {.peak = 3e-3, .warmup = 10, .steps = STEPS};
    tsr_trainer_options options = {.plan = plan,
                                   .samples = {read_sample, &all},
                                   .micro_steps = 1,
                                   .rates = rates,
                                   .kernels = kernels};
    train_on_all_ranks(&options, ranks);
    printf("loss %.3f -> %.3f\n", ranks[0].first.loss, ranks[0].last.loss);

    tsr_plan_release(plan);
    tsr_kernel_table_release(kernels);
    tsr_op_table_release(ops);
    return ranks[0].last.loss < ranks[0].first.loss ? EXIT_SUCCESS
                                                    : EXIT_FAILURE;
}
