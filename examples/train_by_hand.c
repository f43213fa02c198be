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

static tsr_value_id matrix(tsr_graph *g, const char *name, int64_t rows,
                           int64_t columns) {
    tsr_type type = {.dtype = TSR_F32, .dims = 2, .shape = {rows, columns}};
    tsr_param normal = {.name = name, .type = type, .init = TSR_INIT_NORMAL};
    normal.init_value = 0.02;
    return tsr_graph_param(g, &normal);
}

static tsr_value_id vector(tsr_graph *g, const char *name, double value) {
    tsr_type type = {.dtype = TSR_F32, .dims = 1, .shape = {DIM}};
    tsr_param constant = {.name = name, .type = type, .init_value = value};
    return tsr_graph_param(g, &constant);
}

static tsr_value_id linear(tsr_graph *g, const char *name, tsr_value_id x,
                           int64_t in, int64_t out) {
    return tsr_linear(g, x, matrix(g, name, in, out), none, TSR_WEIGHT_IN_OUT);
}

/* One transformer block between an embedding and a head. */
static void build_model(tsr_graph *g) {
    tsr_type ids = {.dtype = TSR_I32, .dims = 2, .shape = {BATCH, SEQ}};
    tsr_type scalar = {.dtype = TSR_F32, .dims = 1, .shape = {1}};
    tsr_value_id tokens, targets, loss, x, y;
    tokens = tsr_graph_declare(g, "tokens", TSR_ROLE_INPUT, &ids);
    targets = tsr_graph_declare(g, "targets", TSR_ROLE_INPUT, &ids);
    loss = tsr_graph_declare(g, "loss", TSR_ROLE_STATE, &scalar);

    x = tsr_embedding(g, tokens, matrix(g, "embed", VOCAB, DIM));
    x = tsr_position_add(g, x, matrix(g, "position", SEQ, DIM), none);

    y = tsr_layer_norm(g, x, vector(g, "norm_1.weight", 1),
                       vector(g, "norm_1.bias", 0), 1e-5);
    y = tsr_attention(g, linear(g, "qkv", y, DIM, 3 * DIM), HEADS, HEADS);
    x = tsr_add(g, x, linear(g, "project", y, DIM, DIM));

    y = tsr_layer_norm(g, x, vector(g, "norm_2.weight", 1),
                       vector(g, "norm_2.bias", 0), 1e-5);
    y = tsr_gelu(g, linear(g, "up", y, DIM, 4 * DIM));
    x = tsr_add(g, x, linear(g, "down", y, 4 * DIM, DIM));

    double mean = 1.0 / (RANKS * BATCH * SEQ);
    y = linear(g, "head", x, DIM, VOCAB);
    tsr_graph_set_loss(g, tsr_cross_entropy(g, y, targets, loss, VOCAB, mean));
    check(tsr_graph_status(g)); /* of all the calls above */
}

/* ---- the plan ---- */

/* query: what scratch memory the kernels need; the plan finds room for it. */
static tsr_plan *compile(const tsr_op_table *ops,
                         const tsr_workspace_query *query) {
    tsr_target host = {.world = RANKS, .shared = true, .gather_alias = true};
    host.workspace = tsr_kernel_workspace;
    host.workspace_context = query;
    tsr_adamw adamw = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .max_norm = 1};
    tsr_training training = {.micro_steps = 1, .adamw = adamw};
    tsr_graph *graph;
    tsr_plan *plan;
    check(tsr_graph_create(ops, &graph));
    build_model(graph);
    check(tsr_compile_training(graph, &host, &training, &plan));
    return plan; /* owns the graph */
}

/* ---- the data ---- */

#define SENTENCE                                                               \
    "She sells sea shells by the sea shore; the shells she sells are sea "     \
    "shells, I am sure."

typedef struct text {
    uint64_t count;
    unsigned char bytes[1 << 20];
} text;

static void read_text(const char *path, text *out_text) {
    FILE *file = fopen(path, "rb");
    if (file)
        out_text->count =
            fread(out_text->bytes, 1, sizeof out_text->bytes, file);
    if (!file || fclose(file) != 0 || out_text->count <= SEQ) {
        fprintf(stderr, "%s: cannot be read, or is too short\n", path);
        exit(EXIT_FAILURE);
    }
}

/* SEQ bytes from somewhere, and for each the byte that follows. Steps of the
 * golden ratio spread the samples evenly over the text. */
static void read_sample(const void *context, int64_t sample, int32_t *tokens,
                        int32_t *targets) {
    const text *from = context;
    uint64_t fraction = ((uint64_t)sample * 0x9e3779b97f4a7c15u) >> 32;
    uint64_t first = (fraction * (from->count - SEQ)) >> 32;
    for (uint64_t t = 0; t < SEQ; t++) {
        tokens[t] = from->bytes[first + t];
        targets[t] = from->bytes[first + t + 1];
    }
}

/* ---- the ranks ---- */

typedef struct rank {
    const tsr_trainer_options *options;
    tsr_bootstrap *bootstrap; /* how the ranks find each other */
    tsr_step_metrics first, last;
} rank;

static void *train(void *context) {
    rank *self = context;
    tsr_trainer *trainer;
    check(tsr_trainer_create(self->options, self->bootstrap, &trainer));
    check(tsr_trainer_step(trainer, &self->first));
    for (int step = 2; step <= STEPS; step++) {
        check(tsr_trainer_step(trainer, &self->last));
        if (step % 20 == 0 && tsr_bootstrap_rank(self->bootstrap) == 0)
            printf("step %3d   loss %.3f\n", step, self->last.loss);
    }
    tsr_trainer_release(trainer);
    tsr_bootstrap_release(self->bootstrap);
    return NULL;
}

static void train_on_all_ranks(const tsr_trainer_options *options,
                               rank ranks[RANKS]) {
    tsr_bootstrap *bootstraps[RANKS];
    pthread_t threads[RANKS];
    check(tsr_bootstrap_create_threads(RANKS, bootstraps));
    for (int r = 0; r < RANKS; r++) {
        ranks[r] = (rank){.options = options, .bootstrap = bootstraps[r]};
        if (pthread_create(&threads[r], NULL, train, &ranks[r]) != 0)
            exit(EXIT_FAILURE);
    }
    for (int r = 0; r < RANKS; r++)
        pthread_join(threads[r], NULL);
}

int main(int argc, char **argv) {
    static text learned = {sizeof SENTENCE - 1, SENTENCE};
    tsr_op_table *ops;
    tsr_kernel_table *kernels;
    rank ranks[RANKS];
    if (argc > 1)
        read_text(argv[1], &learned);
    check(tsr_op_table_create(&ops));
    check(tsr_kernel_table_create(TSR_KERNELS_CPU, &kernels));
    tsr_workspace_query query = {.kernels = kernels, .threads = 1};
    tsr_plan *plan = compile(ops, &query);
    tsr_trainer_options options = {.plan = plan,
                                   .samples = {read_sample, &learned},
                                   .micro_steps = 1,
                                   .kernels = kernels};
    options.rates = (tsr_rates){.peak = 3e-3, .warmup = 10, .steps = STEPS};
    train_on_all_ranks(&options, ranks);
    printf("loss %.3f -> %.3f\n", ranks[0].first.loss, ranks[0].last.loss);
    tsr_plan_release(plan);
    tsr_kernel_table_release(kernels);
    tsr_op_table_release(ops);
    return ranks[0].last.loss < ranks[0].first.loss ? 0 : EXIT_FAILURE;
}
