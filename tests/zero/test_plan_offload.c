/* A plan whose text has offload and reload put in by hand does what it did
 * without them, bit by bit, in less memory of the device. */
#include "base/memory.h"
#include "graph/offload_edit.h"
#include "spoilt.h"

/* W = 2: full shards. W = 3: 10 * 10 and 10 elements leave padding. */
static tsr_run make_run(int world, run_memory memory) {
    return (tsr_run){.model = {.layers = 3,
                               .heads = 2,
                               .dim = 10,
                               .vocab = 23,
                               .seq = 9,
                               .norm_eps = 1e-5},
                     .world = world,
                     .batch = 2,
                     .micro_steps = 2,
                     .steps = 3, /* moments go there and back twice */
                     .memory = memory,
                     .kernels = TSR_KERNELS_CPU};
}

/* ---- edits ---- */

static void activations(plan_text *t) { offload_activations(t); }

static void one_shard(plan_text *t) {
    keep_on_host(t, value_named(t, "h.1.mlp.c_fc.weight"));
}

static void all_three(plan_text *t) {
    offload_activations(t);
    shards_to_host(t);
    moments_to_host(t);
}

/* Also gradients and what the host reads: loss and norm. */
static void whatever_can(plan_text *t) {
    all_three(t);
    keep_all_on_host(t, " grad_shard ");
    keep_all_on_host(t, ".square_sum");
    keep_on_host(t, value_named(t, "loss"));
    keep_on_host(t, value_named(t, "grad_norm"));
}

/* A weight that is on the device goes to the host and back before its gather.
 */
static void shard_there_and_back(plan_text *t) {
    int gather = text_find(t, "micro_first", "gather", "h.0.attn", 0),
        shard = input_of(t, gather, 0), host;
    text_value value = value_of(t, shard);
    host = insert_offload(t, gather++, shard, -1, &value, false);
    set_input(t, gather + 1, 0, insert_reload(t, gather, host, &value, false));
}

typedef struct edit_case {
    const char *name;
    void (*edit)(plan_text *t);
    bool alias; /* also where gathers alias the weights */
} edit_case;

static const edit_case cases[] = {
    {"activations", activations, true},
    {"one shard", one_shard, false},
    {"all shards", shards_to_host, false},
    {"moments", moments_to_host, true},
    {"all three", all_three, false},
    {"whatever can", whatever_can, false},
    {"a shard there and back", shard_there_and_back, false},
};
#define CASES (sizeof cases / sizeof *cases)

/* ---- same bits ---- */

static void check_case(const outcome *plain, tsr_run run,
                       const edit_case *edited) {
    char what[96];
    snprintf(what, sizeof what, "%d ranks, %s, %s", run.world,
             run_memory_names[run.memory], edited->name);
    run.edit = edited->edit;
    outcome *made = train(&run);
    check_same_bits(plain, made, 0, what);
    outcome_release(made);
}

static void check_all(int world) {
    for (int memory = 0; memory < RUN_MEMORIES; memory++) {
        tsr_run run = make_run(world, (run_memory)memory);
        outcome *plain = train(&run);
        for (size_t i = 0; i < CASES; i++) {
            if (memory == RUN_ALIAS && !cases[i].alias)
                continue;
            check_case(plain, run, &cases[i]);
            if (memory == RUN_PRIVATE) /* copies are like those of COPY */
                continue;
            tsr_run delayed = run;
            delayed.delay_seed = 17 * (uint64_t)world + i;
            delayed.max_delay_us = 40;
            check_case(plain, delayed, &cases[i]);
        }
        outcome_release(plain);
    }
}

/* With masters and twins; the masters go to the host, too. */
static void masters(plan_text *t) {
    moments_to_host(t);
    keep_all_on_host(t, " master ");
}

static void check_bf16(int world, run_memory memory) {
    static const edit_case kept = {"masters", masters, true};
    tsr_run run = make_run(world, memory);
    run.model.dtype = TSR_BF16;
    outcome *plain = train(&run);
    check_case(plain, run, &kept);
    for (size_t i = 0; i < CASES; i++)
        if (memory != RUN_ALIAS || cases[i].alias)
            check_case(plain, run, &cases[i]);
    outcome_release(plain);
}

/* Ranks that are processes; kernels of two threads. */
static void check_forms(void) {
    tsr_run run = make_run(2, RUN_COPY);
    outcome *plain = train(&run);
    run.processes = true;
    check_case(plain, run, &cases[4]);
    outcome_release(plain);
    run.threads = 2;
    plain = train(&run);
    check_case(plain, run, &cases[4]);
    outcome_release(plain);
}

/* ---- memory ---- */

typedef struct plan_bytes {
    size_t of[TSR_SPACE_COUNT];
} plan_bytes;

static plan_bytes bytes_of(tsr_run run, void (*edit)(plan_text *t)) {
    run_session session;
    plan_bytes bytes;
    run.edit = edit;
    run_session_open(&run, &session);
    memcpy(bytes.of, session.plan->bytes, sizeof bytes.of);
    CHECK(tsr_plan_rank_host_bytes(session.plan) ==
          bytes.of[TSR_SPACE_HOST_PERSISTENT] +
              bytes.of[TSR_SPACE_HOST_TRANSIENT]);
    run_session_close(&session);
    return bytes;
}

/* Bytes of the shards of all parameters, each filled up to the alignment. */
static size_t shard_bytes(const tsr_run *run) {
    run_session session;
    size_t bytes = 0;
    run_session_open(run, &session);
    for (int32_t p = 0; p < tsr_graph_param_count(session.plan->graph); p++) {
        const tsr_param *param =
            tsr_graph_param_at(session.plan->graph, (tsr_param_id){p});
        bytes += tsr_round_up(
            (size_t)tsr_shard_count(param, run->world) * sizeof(float), 64);
    }
    run_session_close(&session);
    return bytes;
}

/* Moments: two of each shard leave persistent memory, and no other. */
static void check_moment_bytes(int world) {
    for (int memory = 0; memory < RUN_MEMORIES; memory++) {
        tsr_run run = make_run(world, (run_memory)memory);
        plan_bytes plain = bytes_of(run, NULL),
                   edited = bytes_of(run, moments_to_host);
        size_t moved = 2 * shard_bytes(&run);
        CHECK(plain.of[TSR_SPACE_PERSISTENT] -
                  edited.of[TSR_SPACE_PERSISTENT] ==
              moved);
        CHECK(edited.of[TSR_SPACE_HOST_PERSISTENT] == moved &&
              edited.of[TSR_SPACE_HOST_TRANSIENT] == 0);
        CHECK(edited.of[TSR_SPACE_WEIGHTS] == plain.of[TSR_SPACE_WEIGHTS]);
        CHECK(plain.of[TSR_SPACE_HOST_PERSISTENT] == 0 &&
              plain.of[TSR_SPACE_HOST_TRANSIENT] == 0);
    }
}

/* Shards: nothing of them stays among the weights. */
static void check_shard_bytes(int world) {
    tsr_run run = make_run(world, RUN_COPY);
    plan_bytes edited = bytes_of(run, shards_to_host);
    CHECK(edited.of[TSR_SPACE_WEIGHTS] == 0);
    CHECK(edited.of[TSR_SPACE_HOST_PERSISTENT] == shard_bytes(&run));
}

/* What a block of the model keeps for its backward, in f32: two norms' outputs,
 * q, k and v, the attention's output, two residuals, and both sides of the GELU
 * with 4 * dim channels; a mean and a deviation of each norm, and each head's
 * log of sums, a token. A multiple of the alignment for sizes that are. */
static size_t block_bytes(const tsr_run *run) {
    int64_t tokens = run->batch * run->model.seq;
    return sizeof(float) *
           (size_t)(tokens * (16 * run->model.dim + 4 + run->model.heads));
}

static void gelu_inputs(plan_text *t) {
    for (int i = 0; i < t->count; i++)
        if (is_node(t->line[i]) && line_is(t->line[i], "gelu"))
            offload_activation(t, input_of(t, i, 0));
}

static plan_bytes bytes_at_depth(int layers, void (*edit)(plan_text *t)) {
    tsr_run run = {.model = {.layers = layers,
                             .heads = 2,
                             .dim = 64,
                             .vocab = 64,
                             .seq = 32,
                             .norm_eps = 1e-5},
                   .world = 2,
                   .batch = 2,
                   .micro_steps = 2,
                   .memory = RUN_ALIAS,
                   .kernels = TSR_KERNELS_CPU};
    CHECK(block_bytes(&run) == 263680);
    return bytes_of(run, edit);
}

/* Activations: a block more costs the device what it keeps and does not
 * offload, and the host what it does. Two offloaded values are in flight: the
 * one that is copied and the one that is made meanwhile. */
static void check_activation_bytes(void) {
    size_t block = 263680, gelu = sizeof(float) * 2 * 32 * 4 * 64;
    plan_bytes plain_more = bytes_at_depth(2, NULL),
               some_more = bytes_at_depth(2, gelu_inputs),
               all_more = bytes_at_depth(2, activations);
    for (size_t layers = 2; layers <= 6; layers += 2) {
        int more = (int)layers + 2;
        plan_bytes plain = plain_more, some = some_more, all = all_more;
        plain_more = bytes_at_depth(more, NULL);
        some_more = bytes_at_depth(more, gelu_inputs);
        all_more = bytes_at_depth(more, activations);
        tsr_space transient = TSR_SPACE_TRANSIENT,
                  host = TSR_SPACE_HOST_TRANSIENT;
        CHECK(plain_more.of[transient] - plain.of[transient] == 2 * block);
        CHECK(some_more.of[transient] - some.of[transient] ==
              2 * (block - gelu));
        CHECK(all_more.of[transient] == all.of[transient]);
        CHECK(some.of[host] == layers * gelu && all.of[host] == layers * block);
        size_t freed = plain.of[transient] - some.of[transient];
        CHECK_MESSAGE(freed >= (layers - 2) * gelu && freed <= layers * gelu,
                      "%zu blocks: %zu bytes freed", layers, freed);
        for (int s = TSR_SPACE_WEIGHTS; s < TSR_SPACE_TRANSIENT; s++)
            CHECK(plain.of[s] == all.of[s]);
    }
}

/* ---- nothing is read before it is written ---- */

/* Fills the memory of one section, on both sides, with NaNs. */
static tsr_status spoil(void *context) {
    static const tsr_space spaces[] = {TSR_SPACE_TRANSIENT, TSR_SPACE_GRADS,
                                       TSR_SPACE_HOST_TRANSIENT};
    const tsr_trainer *trainer = context;
    for (size_t s = 0; s < sizeof spaces / sizeof *spaces; s++) {
        size_t bytes;
        void *space = tsr_arena_space(trainer->arena, 0, spaces[s], &bytes);
        CHECK(bytes > 0);
        memset(space, 0xff, bytes);
    }
    return TSR_OK;
}

static void check_spoilt(int world) {
    tsr_run run = make_run(world, RUN_COPY);
    outcome *plain = train(&run), *spoilt = outcome_create(&run);
    run_session session;
    spoilt_job job = {{&session, spoilt}, spoil};
    run.edit = whatever_can;
    run_session_open(&run, &session);
    run_threads(world, spoilt_rank, &job);
    run_session_close(&session);
    check_same_bits(plain, spoilt, 0, "spoilt memory");
    outcome_release(spoilt);
    outcome_release(plain);
}

/* ---- a placed plan ---- */

/* tests/golden/offload.txt instead of what was compiled. */
static void golden_plan(plan_text *t) {
    const char *folder = strstr(__FILE__, "zero/test_plan_offload.c");
    char path[512];
    size_t capacity = 1 << 16;
    char *text = calloc(capacity, 1);
    CHECK(text != NULL && folder != NULL);
    int length = snprintf(path, sizeof path, "%.*sgolden/offload.txt",
                          (int)(folder - __FILE__), __FILE__);
    CHECK(length > 0 && (size_t)length < sizeof path);
    FILE *file = fopen(path, "r");
    CHECK_MESSAGE(file != NULL, "%s", path);
    CHECK(fread(text, 1, capacity - 1, file) > 0 && fclose(file) == 0);
    text_release(t);
    text_load(t, text);
    free(text);
}

static void check_golden(void) {
    tsr_run run = {.model = {.layers = 1,
                             .heads = 1,
                             .dim = 4,
                             .vocab = 5,
                             .seq = 3,
                             .norm_eps = 1e-5},
                   .world = 2,
                   .batch = 2,
                   .micro_steps = 1,
                   .steps = 8,
                   .memory = RUN_ALIAS,
                   .kernels = TSR_KERNELS_REF};
    outcome *plain = train(&run);
    run.delay_seed = 5;
    run.max_delay_us = 60;
    check_case(plain, run, &(edit_case){.name = "golden", .edit = golden_plan});
    outcome_release(plain);
    plan_bytes bytes = bytes_of(run, golden_plan);
    CHECK(bytes.of[TSR_SPACE_HOST_PERSISTENT] == 128 &&
          bytes.of[TSR_SPACE_HOST_TRANSIENT] == 384);
}

/* ---- plans that cannot share an arena ---- */

static void test_shared_arena(void) {
    tsr_run run = make_run(1, RUN_COPY);
    run_session session;
    tsr_device *device;
    tsr_arena *arena;
    run.evaluate = true;
    run.edit = one_shard;
    run_session_open(&run, &session);
    const tsr_plan *plans[] = {session.plan, session.eval_plan};
    CHECK_OK(tsr_device_create_cpu(NULL, &device));
    CHECK_FAILS(tsr_arena_create(device, NULL, plans, 2, &arena),
                TSR_INVALID_ARGUMENT,
                "'h.1.mlp.c_fc.weight' is on the host in a plan");
    CHECK(arena == NULL);
    tsr_device_release(device);
    run_session_close(&session);
}

/* Moments are a plan's own: evaluation goes on as before. */
static void check_evaluation(void) {
    tsr_run run = make_run(2, RUN_ALIAS);
    run.evaluate = true;
    outcome *plain = train(&run);
    run.edit = moments_to_host;
    outcome *edited = train(&run);
    check_same_bits(plain, edited, 0, "evaluated between steps");
    CHECK(memcmp(plain->eval_losses, edited->eval_losses,
                 sizeof plain->eval_losses) == 0);
    outcome_release(edited);
    outcome_release(plain);
}

int main(void) {
    for (int world = 1; world <= 3; world++) {
        check_all(world);
        check_moment_bytes(world);
        check_shard_bytes(world);
    }
    check_bf16(2, RUN_ALIAS);
    check_bf16(3, RUN_COPY);
    check_forms();
    check_golden();
    check_activation_bytes();
    check_spoilt(1);
    check_spoilt(3);
    test_shared_arena();
    check_evaluation();
    return 0;
}
