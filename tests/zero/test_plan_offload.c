/* A plan whose text has offload and reload put in by hand does what it did
 * without them, bit by bit, in less memory of the device. */
#include "base/memory.h"
#include "folder.h"
#include "graph/offload_edit.h"
#include "runs.h"

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
                     .steps = 5,
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
    set_input(t, gather + 1, 0,
              insert_reload(t, gather, host, &value, false));
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
            tsr_run delayed = run;
            delayed.delay_seed = 17 * (uint64_t)world + i;
            delayed.max_delay_us = 40;
            delayed.steps = run.steps;
            check_case(plain, delayed, &cases[i]);
        }
        outcome_release(plain);
    }
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

int main(void) {
    for (int world = 1; world <= 3; world++) {
        check_all(world);
        check_moment_bytes(world);
        check_shard_bytes(world);
    }
    check_forms();
    return 0;
}
