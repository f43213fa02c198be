/* Memory is what the plan says: ranks take its bytes and no more, write nothing
 * between values or past a space's end, read nothing in a section that the
 * section has not written, and share one copy of the weights. */
#include "base/memory.h"
#include "spoilt.h"

/* An arena's spaces begin at multiples of this (arena.c). */
#define PAGE 4096
/* A byte that no value begins with by chance: 0xa5a5a5a5 is -2.9e-16. */
#define GUARD 0xa5
/* Four of these are a NaN. */
#define POISON 0xff

static tsr_run make_run(int world, run_memory memory, tsr_dtype dtype) {
    return (tsr_run){.model = {.layers = 2,
                               .heads = 2,
                               .dim = 14,
                               .vocab = 29,
                               .seq = 7,
                               .norm_eps = 1e-5,
                               .dtype = dtype},
                     .world = world,
                     .batch = 2,
                     .micro_steps = 2,
                     .steps = 4,
                     .memory = memory,
                     .kernels = TSR_KERNELS_CPU};
}

/* ---- bytes as planned ---- */

static size_t paged(size_t bytes) { return tsr_round_up(bytes, PAGE); }

static size_t planned_bytes(const tsr_plan *plan) {
    size_t world = (size_t)plan->target.world;
    size_t weights = paged(plan->bytes[TSR_SPACE_WEIGHTS]),
           grads = paged(plan->bytes[TSR_SPACE_GRADS]),
           others = paged(plan->bytes[TSR_SPACE_TRANSIENT]) +
                    paged(plan->bytes[TSR_SPACE_PERSISTENT]);
    if (!plan->target.shared)
        return others + weights + grads;
    return others + (weights + world * grads + world - 1) / world;
}

/* ---- guards ---- */

typedef void (*gap_visitor)(unsigned char *gap, size_t bytes,
                            const char *where);

static void fill_gap(unsigned char *gap, size_t bytes, const char *where) {
    (void)where;
    memset(gap, GUARD, bytes);
}

static void check_gap(unsigned char *gap, size_t bytes, const char *where) {
    for (size_t i = 0; i < bytes; i++)
        CHECK_MESSAGE(gap[i] == GUARD,
                      "byte %zu of the %zu past %s was written", i, bytes,
                      where);
}

/* Bytes of a declared value in its space, the other ranks' shards included. */
static size_t declared_bytes(const tsr_plan *plan, const tsr_value *value) {
    bool whole = value->role == TSR_ROLE_PARAM_SHARD && plan->target.shared;
    return tsr_type_bytes(&value->type) *
           (whole ? (size_t)plan->target.world : 1);
}

/* Whether another rank looks after these gaps. */
static bool is_others(const tsr_trainer *trainer, tsr_space space) {
    return space == TSR_SPACE_WEIGHTS && trainer->options.plan->target.shared &&
           trainer->rank != 0;
}

static size_t visit_space_ends(const tsr_trainer *trainer, gap_visitor visit) {
    size_t visited = 0;
    for (int s = TSR_SPACE_WEIGHTS; s < TSR_SPACE_COUNT; s++) {
        size_t bytes;
        unsigned char *space =
            tsr_arena_space(trainer->arena, 0, (tsr_space)s, &bytes);
        CHECK(bytes == trainer->options.plan->bytes[s]);
        if (!space) /* nothing is on the host */
            continue;
        if (is_others(trainer, (tsr_space)s))
            continue;
        visit(space + bytes, paged(bytes) - bytes,
              tsr_space_name((tsr_space)s));
        visited += paged(bytes) - bytes;
    }
    return visited;
}

/* What alignment leaves between declared values. */
static size_t visit_value_ends(const tsr_trainer *trainer, gap_visitor visit) {
    const tsr_plan *plan = trainer->options.plan;
    size_t visited = 0;
    for (int32_t v = 0; v < tsr_graph_value_count(plan->graph); v++) {
        const tsr_value *value =
            tsr_graph_value(plan->graph, (tsr_value_id){v});
        if (value->producer.index >= 0 || is_others(trainer, value->space))
            continue;
        unsigned char *space =
            tsr_arena_space(trainer->arena, 0, value->space, NULL);
        size_t end = value->offset + declared_bytes(plan, value);
        size_t gap = tsr_round_up(end, plan->target.alignment) - end;
        visit(space + end, gap, value->name);
        visited += gap;
    }
    return visited;
}

static void barrier(rank_context *rank) {
    char mine = 0, all[RANKS_MAX];
    CHECK_OK(tsr_bootstrap_exchange(rank->bootstrap, &mine, 1, all, 30000));
}

static void guarded_rank(rank_context *rank) {
    const run_session *session = rank->argument;
    tsr_trainer_options options = run_options(session, rank->rank);
    tsr_trainer *trainer;
    tsr_step_metrics metrics;
    CHECK_OK(tsr_trainer_create(&options, rank->bootstrap, &trainer));
    size_t planned = planned_bytes(session->plan);
    CHECK_MESSAGE(tsr_trainer_arena_bytes(trainer) == planned,
                  "the arena takes %zu bytes, planned are %zu",
                  tsr_trainer_arena_bytes(trainer), planned);
    CHECK(visit_space_ends(trainer, fill_gap) > 0);
    CHECK(visit_value_ends(trainer, fill_gap) > 0);
    barrier(rank); /* ranks share the weights' gaps */
    for (int s = 0; s < session->run->steps; s++)
        CHECK_OK(tsr_trainer_step(trainer, &metrics));
    barrier(rank);
    visit_space_ends(trainer, check_gap);
    visit_value_ends(trainer, check_gap);
    barrier(rank);
    tsr_trainer_release(trainer);
}

static void check_guards(int world, run_memory memory, tsr_dtype dtype) {
    tsr_run run = make_run(world, memory, dtype);
    run_session session;
    run_session_open(&run, &session);
    run_threads(world, guarded_rank, &session);
    run_session_close(&session);
}

/* ---- nothing is read before it is written ---- */

static tsr_status spoil(void *context) {
    const tsr_trainer *trainer = context;
    static const tsr_space spaces[] = {TSR_SPACE_TRANSIENT, TSR_SPACE_GRADS};
    for (size_t s = 0; s < 2; s++) {
        size_t bytes;
        void *space = tsr_arena_space(trainer->arena, 0, spaces[s], &bytes);
        memset(space, POISON, bytes);
    }
    return TSR_OK;
}

static void check_spoilt(int world, run_memory memory, tsr_dtype dtype) {
    tsr_run run = make_run(world, memory, dtype);
    outcome *clean = train(&run), *spoilt = outcome_create(&run);
    run_session session;
    spoilt_job job = {{&session, spoilt}, spoil};
    char what[64];
    snprintf(what, sizeof what, "%d ranks, %s, spoilt memory", world,
             run_memory_names[memory]);
    run_session_open(&run, &session);
    run_threads(world, spoilt_rank, &job);
    run_session_close(&session);
    check_same_bits(clean, spoilt, 0, what);
    outcome_release(spoilt);
    outcome_release(clean);
}

/* ---- one copy of the weights a host ---- */

static tsr_plan *compile(int world, run_memory memory, tsr_dtype dtype,
                         run_session *session) {
    static tsr_run run;
    run = make_run(world, memory, dtype);
    run_session_open(&run, session);
    return session->plan;
}

/* Any number of ranks: the parameters, each filled up to whole shards and to
 * the alignment. */
static void check_weight_bytes(tsr_dtype dtype) {
    for (int world = 1; world <= 64; world = world * 3 / 2 + 1) {
        run_session session;
        const tsr_plan *plan = compile(world, RUN_ALIAS, dtype, &session);
        size_t least = 0, most = 0, alignment = plan->target.alignment;
        for (int32_t p = 0; p < tsr_graph_param_count(plan->graph); p++) {
            const tsr_param *param =
                tsr_graph_param_at(plan->graph, (tsr_param_id){p});
            size_t bytes = tsr_type_bytes(&param->type);
            least += bytes;
            most += bytes + (size_t)(world - 1) * tsr_dtype_bytes(dtype) +
                    alignment - 1;
        }
        size_t planned = plan->bytes[TSR_SPACE_WEIGHTS];
        CHECK_MESSAGE(planned >= least && planned <= most,
                      "%d ranks: weights of %zu bytes take %zu", world, least,
                      planned);
        run_session_close(&session);
    }
}

/* Each rank writes a word into the weights that the others read. */
static void sharing_rank(rank_context *rank) {
    const run_session *session = rank->argument;
    tsr_trainer_options options = run_options(session, rank->rank);
    tsr_trainer *trainer;
    CHECK_OK(tsr_trainer_create(&options, rank->bootstrap, &trainer));
    size_t bytes;
    uint32_t *words =
        tsr_arena_space(trainer->arena, 0, TSR_SPACE_WEIGHTS, &bytes);
    size_t count = bytes / sizeof *words, world = (size_t)rank->world;
    for (size_t i = (size_t)rank->rank; i < count; i += world)
        words[i] = (uint32_t)(i * 2654435761u);
    barrier(rank);
    for (size_t i = 0; i < count; i++)
        CHECK_MESSAGE(words[i] == (uint32_t)(i * 2654435761u),
                      "rank %d does not see word %zu of rank %zu", rank->rank,
                      i, i % world);
    /* One copy, and no second one in the private part. */
    CHECK(tsr_trainer_arena_bytes(trainer) * world <
          tsr_plan_host_bytes(session->plan) + (3 * world + 1) * PAGE + world);
    barrier(rank);
    tsr_trainer_release(trainer);
}

static void check_sharing(int world, bool processes) {
    run_session session;
    compile(world, RUN_ALIAS, TSR_F32, &session);
    if (processes)
        run_processes(world, sharing_rank, &session);
    else
        run_threads(world, sharing_rank, &session);
    run_session_close(&session);
}

int main(void) {
    static const int worlds[] = {1, 2, 5};
    check_weight_bytes(TSR_F32);
    check_weight_bytes(TSR_BF16);
    for (int world = 2; world <= 4; world++) {
        check_sharing(world, true);
        check_sharing(world, false);
    }
    for (size_t w = 0; w < sizeof worlds / sizeof *worlds; w++)
        for (int memory = 0; memory < RUN_MEMORIES; memory++)
            for (int dtype = TSR_F32; dtype <= TSR_BF16; dtype++) {
                check_guards(worlds[w], (run_memory)memory, (tsr_dtype)dtype);
                check_spoilt(worlds[w], (run_memory)memory, (tsr_dtype)dtype);
            }
    return 0;
}
