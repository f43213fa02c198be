/* What bf16 must not cost, and what it must save: 200 steps of a small GPT end
 * where f32 ends, and what is gathered and communicated has half the bytes. */
#include "runs.h"

#include <string.h>

/* ---- loss ---- */

enum { STEPS = 200 };

/* Of the last steps' mean loss, and of the evaluation at the end. */
#define RELATIVE 1e-2
enum { LAST = 10 };

#define BRANCHES 4 /* tokens that may follow a token */

/* A Markov chain: after a token come BRANCHES others, the first of them half of
 * the time, so that there is something to learn, and something left to chance:
 * 1.2 nats a token. */
static void read_chain(const void *context, int64_t sample, int32_t *tokens,
                       int32_t *targets) {
    const tsr_gpt_config *model = context;
    uint64_t state = run_random((uint64_t)sample);
    int64_t token = (int64_t)(state % (uint64_t)model->vocab);
    for (int64_t t = 0; t < model->seq; t++) {
        tokens[t] = (int32_t)token;
        state = run_random(state);
        uint64_t branch = state & 1 ? 0 : 1 + (state >> 1) % (BRANCHES - 1);
        token = (int64_t)(run_random((uint64_t)token * BRANCHES + branch) %
                          (uint64_t)model->vocab);
        targets[t] = (int32_t)token;
    }
}

static outcome *train_200(tsr_dtype dtype) {
    tsr_run run = {.model = {.layers = 2,
                             .heads = 2,
                             .dim = 32,
                             .vocab = 61,
                             .seq = 32,
                             .norm_eps = 1e-5,
                             .dtype = dtype},
                   .world = 2,
                   .batch = 4,
                   .micro_steps = 2,
                   .steps = STEPS,
                   .kernels = TSR_KERNELS_CPU,
                   .evaluate = true,
                   .read = read_chain};
    return train(&run);
}

static double last_losses(const outcome *made) {
    double sum = 0;
    for (int s = STEPS - LAST; s < STEPS; s++)
        sum += made->losses[0][s];
    return sum / LAST;
}

static void check_loss(const outcome *f32, tsr_bf16_choice choice,
                       const char *name) {
    tsr_cpu_bf16_prefer(choice);
    outcome *bf16 = train_200(TSR_BF16);
    tsr_cpu_bf16_prefer(TSR_BF16_PROBE);
    double loss = last_losses(bf16) / last_losses(f32) - 1,
           eval = bf16->eval_losses[0][STEPS - 1] /
                      f32->eval_losses[0][STEPS - 1] -
                  1;
    printf("%d steps, f32: loss %.4f -> %.4f, evaluated %.4f; bf16, %s: "
           "%+.3f %%, evaluated %+.3f %%\n",
           STEPS, f32->losses[0][0], last_losses(f32),
           f32->eval_losses[0][STEPS - 1], name, 100 * loss, 100 * eval);
    CHECK(fabs(loss) <= RELATIVE && fabs(eval) <= RELATIVE);
    CHECK(memcmp(bf16->losses[0], f32->losses[0], sizeof bf16->losses[0]) != 0);
    outcome_release(bf16);
}

static void check_losses(void) {
    outcome *f32 = train_200(TSR_F32);
    CHECK(last_losses(f32) < 0.5 * f32->losses[0][0]); /* it learns */
    check_loss(f32, TSR_BF16_F32, "products in f32");
    if (tsr_matmul_possible())
        check_loss(f32, TSR_BF16_NATIVE, "products in bf16");
    outcome_release(f32);
}

/* ---- bytes ---- */

typedef struct traffic {
    size_t gathers, reduces; /* in calls of a micro-step */
    size_t gathered;         /* bytes of the shards that gathers read */
    size_t reduced;          /* bytes of the whole gradients */
    size_t weights;          /* of the space */
    size_t kept;             /* bytes of shards, gradients and moments in f32 */
} traffic;

static size_t input_bytes(const tsr_graph *graph, const tsr_node *node,
                          int32_t count) {
    size_t bytes = 0;
    for (int32_t i = 0; i < count; i++)
        bytes += tsr_type_bytes(
            &tsr_graph_value(graph, tsr_graph_inputs(graph, node)[i])->type);
    return bytes;
}

/* Of one rank. */
static traffic traffic_of(tsr_dtype dtype, int world, run_memory memory) {
    tsr_run run = {.model = {.layers = 2,
                             .heads = 2,
                             .dim = 64,
                             .vocab = 257,
                             .seq = 32,
                             .norm_eps = 1e-5,
                             .dtype = dtype},
                   .world = world,
                   .batch = 2,
                   .micro_steps = 1,
                   .memory = memory,
                   .kernels = TSR_KERNELS_CPU};
    run_session session;
    run_session_open(&run, &session);
    const tsr_graph *graph = session.plan->graph;
    traffic made = {.weights = session.plan->bytes[TSR_SPACE_WEIGHTS]};
    for (int32_t n = 0; n < tsr_graph_node_count(graph); n++) {
        const tsr_node *node = tsr_graph_node_at(graph, (tsr_node_id){n});
        const char *op = tsr_graph_op(graph, node)->name;
        if (strcmp(op, "gather") == 0) {
            made.gathers++;
            made.gathered += input_bytes(graph, node, node->inputs.count);
        } else if (strcmp(op, "reduce") == 0) {
            made.reduces++;
            made.reduced += input_bytes(graph, node, node->inputs.count / 2);
        }
    }
    for (int32_t v = 0; v < tsr_graph_value_count(graph); v++) {
        const tsr_value *value = tsr_graph_value(graph, (tsr_value_id){v});
        if (value->producer.index < 0 && value->param.index >= 0 &&
            value->type.dtype == TSR_F32)
            made.kept += tsr_type_bytes(&value->type);
    }
    run_session_close(&session);
    return made;
}

static void check_bytes(int world, run_memory memory) {
    traffic f32 = traffic_of(TSR_F32, world, memory),
            bf16 = traffic_of(TSR_BF16, world, memory);
    CHECK(f32.gathers > 0 && bf16.gathers == f32.gathers);
    CHECK(f32.reduces > 0 && bf16.reduces == f32.reduces);
    CHECK(2 * bf16.gathered == f32.gathered);
    CHECK(2 * bf16.reduced == f32.reduced);
    /* Shards here are multiples of the alignment, or nearly. */
    CHECK(fabs(2.0 * (double)bf16.weights / (double)f32.weights - 1) < 0.01);
    CHECK(bf16.kept == f32.kept); /* master, gradient, two moments */
    printf("%d ranks, %s: gathered %zu -> %zu bytes a rank, reduced %zu -> "
           "%zu, weights %zu -> %zu\n",
           world, run_memory_names[memory], f32.gathered, bf16.gathered,
           f32.reduced, bf16.reduced, f32.weights, bf16.weights);
}

/* ---- a plan for fewer threads ---- */

static void crowded_rank(rank_context *rank) {
    const run_session *session = rank->argument;
    tsr_trainer_options options = run_options(session, rank->rank);
    tsr_trainer *trainer;
    options.cpu.threads = 4;
    CHECK_FAILS(tsr_trainer_create(&options, rank->bootstrap, &trainer),
                TSR_INVALID_ARGUMENT,
                "it was made for other kernels or fewer threads");
    CHECK(trainer == NULL);
}

/* Products have a workspace a thread: more threads would write past it. */
static void check_threads(void) {
    tsr_run run = {.model = {.layers = 1,
                             .heads = 2,
                             .dim = 64,
                             .vocab = 600,
                             .seq = 32,
                             .norm_eps = 1e-5,
                             .dtype = TSR_BF16},
                   .world = 1,
                   .batch = 2,
                   .micro_steps = 1,
                   .kernels = TSR_KERNELS_CPU,
                   .threads = 1};
    run_session session;
    tsr_cpu_bf16_prefer(TSR_BF16_F32);
    run_session_open(&run, &session);
    run_threads(1, crowded_rank, &session);
    run_session_close(&session);
    tsr_cpu_bf16_prefer(TSR_BF16_PROBE);
}

/* ---- what a model can be computed in ---- */

static void check_dtypes(void) {
    tsr_gpt_config config;
    CHECK_OK(tsr_gpt_preset("gpt2-tiny", &config));
    CHECK(config.dtype == TSR_F32);
    config.dtype = TSR_BF16;
    CHECK_OK(tsr_gpt_validate(&config));
    config.dtype = TSR_F16;
    CHECK_FAILS(tsr_gpt_validate(&config), TSR_UNSUPPORTED,
                "cannot be computed in f16; it can in f32 and bf16");
    config.dtype = TSR_I32;
    CHECK_FAILS(tsr_gpt_validate(&config), TSR_UNSUPPORTED, "in i32");
}

int main(void) {
    check_dtypes();
    check_threads();
    for (int world = 1; world <= 3; world++)
        for (int memory = 0; memory < RUN_MEMORIES; memory++)
            check_bytes(world, (run_memory)memory);
    check_losses();
    return 0;
}
